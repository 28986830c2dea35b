#include "process_stream.hpp"

#include <csignal>

#include "children.hpp"
#include "rpc.hpp"

namespace cube::cubectl {
namespace {

using agent::JsonObject;
using asio::awaitable;

constexpr int highest_signal = 64;
constexpr int unknown_end = 255;

void write_size(JsonWriter& json, TerminalSize size) {
  json.key("pty").begin_object().key("size").begin_object();
  json.key("cols").value(size.columns).key("rows").value(size.rows).end_object().end_object();
}

std::string start_message(const ProcessRequest& request) {
  JsonWriter json;
  json.begin_object().key("process").begin_object();
  json.key("cmd").value(request.command).key("args").begin_array();
  for (const std::string& argument : request.arguments) json.value(argument);
  json.end_array().key("envs").begin_object();
  for (const auto& [name, value] : request.environment) json.key(name).value(value);
  json.end_object();
  if (!request.directory.empty()) json.key("cwd").value(request.directory);
  json.end_object();
  if (request.terminal) write_size(json, *request.terminal);
  json.key("stdin").value(request.input).end_object();
  return json.take();
}

/// {"process":{"pid":1}, and room for more members.
JsonWriter select(std::int64_t pid) {
  JsonWriter json;
  json.begin_object().key("process").begin_object().key("pid").value(pid).end_object();
  return json;
}

http::RequestHead start_head(const Client& client, const Sandbox& sandbox) {
  http::RequestHead head =
      agent_head(client, sandbox, "POST", "/process.Process/Start", "application/connect+json");
  head.headers.add("Connect-Protocol-Version", "1");
  head.headers.add("Keepalive-Ping-Interval", "50");
  return head;
}

/// The agent says with which signal a process ended in words only.
int signal_in(const std::string& status) {
  for (int number = 1; number <= highest_signal; ++number) {
    const std::string words = agent::describe_status(number);
    if (status == words || status.starts_with(words + " (")) return number;
  }
  return 0;
}

Result<int> exit_status_of(const JsonObject& end) {
  const auto exited = end.boolean("exited");
  const auto code = end.integer("exitCode");
  const auto status = end.string("status");
  if (!exited.ok() || !code.ok() || !status.ok())
    return make_error(ErrorCode::unavailable, "the sandbox tells the end of a command in unknown words");
  if (*exited) return static_cast<int>(*code & 0xff);
  const int number = signal_in(*status);
  return number > 0 ? 128 + number : unknown_end;
}

Result<ProcessEvent> read_event(std::string text) {
  ProcessEvent event;
  event.json = text;
  const auto message = JsonObject::parse(std::move(text));
  if (!message.ok()) return message.error();
  const auto body = message->object("event");
  if (!body.ok()) return body.error();
  if (body->has("end")) {
    const auto end = body->object("end");
    if (!end.ok()) return end.error();
    const auto status = exit_status_of(*end);
    if (!status.ok()) return status.error();
    event.kind = ProcessEvent::Kind::end;
    event.exit_status = *status;
  } else if (body->has("data")) {
    const auto data = body->object("data");
    if (!data.ok()) return data.error();
    const char* name = data->has("stdout") ? "stdout" : data->has("stderr") ? "stderr" : "pty";
    event.kind = data->has("stdout")   ? ProcessEvent::Kind::standard_output
                 : data->has("stderr") ? ProcessEvent::Kind::standard_error
                                       : ProcessEvent::Kind::terminal;
    auto bytes = data->bytes(name);
    if (!bytes.ok()) return std::move(bytes).error();
    event.bytes = std::move(*bytes);
  }
  return event;
}

/// The payload of the envelope that ends a stream: {} or {"error":{"code","message"}}.
Result<void> outcome_of(std::string text) {
  const auto message = JsonObject::parse(std::move(text));
  if (!message.ok()) return message.error();
  if (!message->has("error")) return {};
  const auto error = message->object("error");
  if (!error.ok()) return error.error();
  const auto code = error->string("code"), words = error->string("message");
  const bool missing = code.ok() && *code == "not_found";
  return make_error(missing ? ErrorCode::not_found : ErrorCode::invalid_argument,
                    words.ok() && !words->empty() ? *words : "the sandbox gives no reason");
}

awaitable<Result<void>> call(Client& client, const Sandbox& sandbox, std::string method, std::string json) {
  auto answer = co_await call_agent(client, sandbox, "/process.Process/" + method, std::move(json));
  if (!answer) co_return std::move(answer).error();
  co_return Result<void>{};
}

}  // namespace

awaitable<Result<std::unique_ptr<ProcessStream>>> ProcessStream::start(Client& client, Sandbox sandbox,
                                                                       ProcessRequest request) {
  auto opened =
      co_await client.open(start_head(client, sandbox), agent::encode_envelope(0, start_message(request)));
  if (!opened) co_return std::move(opened).error();
  if (opened->head.status >= 300) {
    auto refused = co_await read_answer(client, *opened);
    co_return std::move(refused).error();
  }
  std::unique_ptr<ProcessStream> stream(new ProcessStream(std::move(sandbox), std::move(opened->connection)));
  auto first = co_await stream->receive();
  if (!first) co_return std::move(first).error();
  if (!*first) co_return stream->broken_off();
  stream->start_json_ = **first;
  const auto message = JsonObject::parse(std::move(**first));
  if (!message.ok()) co_return message.error();
  const auto event = message->object("event");
  if (!event.ok()) co_return event.error();
  const auto started = event->object("start");
  if (!started.ok()) co_return started.error();
  const auto pid = started->integer("pid");
  if (!pid.ok() || *pid <= 0)
    co_return make_error(ErrorCode::unavailable, "the sandbox does not say which process it started");
  stream->pid_ = *pid;
  co_return stream;
}

Error ProcessStream::broken_off() const {
  return make_error(ErrorCode::unavailable,
                    "the connection ended before the command did; was the sandbox killed or paused?",
                    "sandbox " + sandbox_.id);
}

/// One message; nothing at the end of a stream that ended well.
awaitable<Result<std::optional<std::string>>> ProcessStream::receive() {
  for (;;) {
    auto envelope = parser_.next();
    if (!envelope.ok()) co_return std::move(envelope).error();
    if (envelope->has_value()) {
      agent::Envelope& message = **envelope;
      if (message.flags == 0) co_return std::optional<std::string>(std::move(message.payload));
      if (message.flags != agent::end_stream_flag) co_return broken_off();
      auto outcome = outcome_of(std::move(message.payload));
      if (!outcome.ok()) co_return std::move(outcome).error();
      co_return std::optional<std::string>();
    }
    const auto count = co_await connection_.read_body(asio::buffer(piece_));
    if (!count.ok() && count.error().code == ErrorCode::cancelled) co_return count.error();
    if (!count.ok() || *count == 0) co_return broken_off();
    parser_.append(std::string_view(piece_.data(), *count));
  }
}

awaitable<Result<std::optional<ProcessEvent>>> ProcessStream::next() {
  if (ended_) co_return std::optional<ProcessEvent>();
  auto message = co_await receive();
  if (!message) co_return std::move(message).error();
  if (!*message) co_return broken_off();
  auto event = read_event(std::move(**message));
  if (!event) co_return std::move(event).error();
  ended_ = event->kind == ProcessEvent::Kind::end;
  co_return std::optional<ProcessEvent>(std::move(*event));
}

awaitable<Result<void>> send_input(Client& client, const Sandbox& sandbox, std::int64_t pid, InputKind kind,
                                   std::string bytes) {
  JsonWriter json = select(pid);
  json.key("input").begin_object().key(kind == InputKind::terminal ? "pty" : "stdin");
  json.value(agent::base64_encode(bytes)).end_object().end_object();
  return call(client, sandbox, "SendInput", json.take());
}

awaitable<Result<void>> close_input(Client& client, const Sandbox& sandbox, std::int64_t pid) {
  JsonWriter json = select(pid);
  json.end_object();
  return call(client, sandbox, "CloseStdin", json.take());
}

awaitable<Result<void>> resize(Client& client, const Sandbox& sandbox, std::int64_t pid, TerminalSize size) {
  JsonWriter json = select(pid);
  write_size(json, size);
  json.end_object();
  return call(client, sandbox, "Update", json.take());
}

awaitable<Result<void>> send_signal(Client& client, const Sandbox& sandbox, std::int64_t pid, int number) {
  JsonWriter json = select(pid);
  json.key("signal").value(number == SIGKILL ? "SIGNAL_SIGKILL" : "SIGNAL_SIGTERM").end_object();
  return call(client, sandbox, "SendSignal", json.take());
}

}  // namespace cube::cubectl
