#include "session.hpp"

#include <simdjson.h>

#include <array>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/this_coro.hpp>
#include <thread>

#include "http/watchdog.hpp"
#include "table.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

constexpr std::size_t answer_limit = 1 << 20;
constexpr std::chrono::minutes answer_patience{2};
constexpr std::chrono::minutes warm_patience{1};
constexpr int a_day_s = 86'400;  // no sandbox ends by itself while a table is made

/// A message of the Connect protocol's streams: flags, length, JSON.
std::string envelope(std::string_view json) {
  std::string bytes(5, '\0');
  for (int i = 0; i < 4; ++i) bytes[4 - i] = static_cast<char>(json.size() >> (8 * i));
  return bytes.append(json);
}

std::string start_message(std::string_view shell, std::initializer_list<std::string_view> arguments) {
  JsonWriter json;
  json.begin_object().key("process").begin_object().key("cmd").value(shell).key("args").begin_array();
  for (const std::string_view argument : arguments) json.value(argument);
  json.end_array().end_object().key("stdin").value(false).end_object();
  return envelope(json.text());
}

std::string shell_start_message(std::string_view command) {
  return start_message("/bin/sh", {"-c", command});
}

/// As the SDKs' commands.run has it.
std::string login_start_message(std::string_view command) {
  return start_message("/bin/bash", {"-l", "-c", command});
}

Error unexpected(int status, const std::string& body) {
  return make_error(ErrorCode::unavailable, "status " + std::to_string(status) + ": " + body);
}

Error no_answer() { return make_error(ErrorCode::deadline_exceeded, "no answer within two minutes"); }

}  // namespace

awaitable<Result<http::ClientConnection*>> Session::connection() {
  if (connection_ && connection_->reusable()) co_return connection_.get();
  auto stream = co_await http::connect_tcp(target_.address, target_.port, std::chrono::seconds(10));
  if (!stream) co_return std::move(stream).error();
  connection_ = std::make_unique<http::ClientConnection>(std::move(*stream));
  co_return connection_.get();
}

awaitable<Result<http::Response>> Session::request(http::RequestHead head, std::string body) {
  const auto open = co_await connection();
  if (!open.ok()) co_return open.error();
  http::ClientConnection& link = **open;
  const auto loop = co_await asio::this_coro::executor;
  const http::Watchdog watchdog(loop, answer_patience, [&] { link.close(); });
  auto response = co_await http::request(link, std::move(head), std::move(body), answer_limit);
  if (watchdog.expired()) co_return no_answer();
  co_return response;
}

awaitable<Result<std::string>> Session::call(std::string method, std::string path, std::string body) {
  http::RequestHead head;
  head.method = std::move(method);
  head.target = std::move(path);
  head.headers.add("Host", "bench");
  head.headers.add("X-API-Key", target_.api_key);
  head.headers.add("Content-Type", "application/json");
  auto response = co_await request(std::move(head), std::move(body));
  if (!response) co_return std::move(response).error();
  if (response->status >= 300) co_return unexpected(response->status, response->body);
  co_return std::move(response->body);
}

awaitable<Result<Box>> Session::create(std::string template_name) {
  JsonWriter json;
  json.begin_object().key("templateID").value(template_name).key("timeout").value(a_day_s).end_object();
  const auto answer = co_await call("POST", "/v2/sandboxes", json.take());
  if (!answer.ok()) co_return answer.error();
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  std::string_view id, token;
  if (parser.parse(*answer).get(document) != simdjson::SUCCESS ||
      document["sandboxID"].get(id) != simdjson::SUCCESS ||
      document["envdAccessToken"].get(token) != simdjson::SUCCESS)
    co_return make_error(ErrorCode::unavailable, "the answer to create makes no sense");
  co_return Box{std::string(id), std::string(token)};
}

awaitable<Result<void>> Session::run(Box box, std::string command, bool to_end) {
  std::string message = shell_start_message(command);
  const auto seen = co_await start(std::move(box), std::move(message), to_end);
  if (!seen.ok()) co_return seen.error();
  if (seen->find("\"stdout\"") == std::string::npos)
    co_return make_error(ErrorCode::unavailable, "the command had no output: " + *seen);
  co_return Result<void>{};
}

awaitable<Result<void>> Session::run_login(Box box, std::string command) {
  std::string message = login_start_message(command);
  const auto seen = co_await start(std::move(box), std::move(message), true);
  if (!seen.ok()) co_return seen.error();
  if (seen->find("\"exit status 0\"") == std::string::npos)
    co_return make_error(ErrorCode::unavailable, "the command did not succeed: " + *seen);
  co_return Result<void>{};
}

http::RequestHead Session::to_agent(const Box& box, std::string method, std::string target) {
  http::RequestHead head;
  head.method = std::move(method);
  head.target = std::move(target);
  head.headers.add("Host", "bench");
  head.headers.add("E2b-Sandbox-Id", box.id);
  head.headers.add("E2b-Sandbox-Port", "49983");
  head.headers.add("X-Access-Token", box.token);
  return head;
}

awaitable<Result<void>> Session::health(Box box) {
  auto response = co_await request(to_agent(box, "GET", "/health"), "");
  if (!response) co_return std::move(response).error();
  if (response->status != 204) co_return unexpected(response->status, response->body);
  co_return Result<void>{};
}

awaitable<Result<std::string>> Session::start(Box box, std::string message, bool to_end) {
  const auto open = co_await connection();
  if (!open.ok()) co_return open.error();
  http::ClientConnection& link = **open;
  const auto loop = co_await asio::this_coro::executor;
  const http::Watchdog watchdog(loop, answer_patience, [&] { link.close(); });
  auto seen = co_await start_on(link, std::move(box), std::move(message), to_end);
  if (watchdog.expired()) co_return no_answer();
  if (!link.body_ended()) connection_.reset();  // the rest is of no interest
  co_return seen;
}

awaitable<Result<std::string>> Session::start_on(http::ClientConnection& link, Box box, std::string message,
                                                 bool to_end) {
  http::RequestHead head = to_agent(box, "POST", "/process.Process/Start");
  head.headers.add("Content-Type", "application/connect+json");
  head.headers.add("Connect-Protocol-Version", "1");
  head.headers.add("Content-Length", std::to_string(message.size()));
  const auto begun = co_await link.begin(std::move(head));
  if (!begun.ok()) co_return begun.error();
  const auto written = co_await link.write(asio::buffer(message));
  if (!written.ok()) co_return written.error();
  const auto finished = co_await link.finish();
  if (!finished.ok()) co_return finished.error();
  const auto answer = co_await link.read_head();
  if (!answer.ok()) co_return answer.error();
  if (answer->status != 200) co_return unexpected(answer->status, "Start");
  std::string seen;
  std::array<char, 4096> chunk;
  for (;;) {
    const auto count = co_await link.read_body(asio::buffer(chunk));
    if (!count.ok()) co_return count.error();
    if (*count == 0) break;
    seen.append(chunk.data(), *count);
    if (!to_end && seen.find("\"stdout\"") != std::string::npos) break;
  }
  co_return seen;
}

awaitable<Result<void>> Session::kill(Box box) {
  const auto answer = co_await call("DELETE", "/sandboxes/" + box.id, "");
  if (!answer.ok()) co_return answer.error();
  co_return Result<void>{};
}

awaitable<void> kill_all(Target target, std::vector<Box> boxes) {
  Session session(target);
  for (const Box& box : boxes) {
    const auto killed = co_await session.kill(box);
    if (!killed.ok()) complain(killed.error());
  }
}

void run_to_end(awaitable<void> work) {
  asio::io_context loop;
  asio::co_spawn(loop, std::move(work), asio::detached);
  loop.run();
}

namespace {

void collect(simdjson::dom::element element, std::string_view name, std::vector<std::string>& texts) {
  simdjson::dom::object object;
  simdjson::dom::array array;
  std::string_view text;
  if (element.get(object) == simdjson::SUCCESS) {
    for (const auto& [key, value] : object) {
      if (key == name && value.get(text) == simdjson::SUCCESS) texts.emplace_back(text);
      collect(value, name, texts);
    }
  } else if (element.get(array) == simdjson::SUCCESS) {
    for (const auto value : array) collect(value, name, texts);
  }
}

awaitable<void> ask_for_status(Target target, Result<std::string>& status) {
  Session session(target);
  status = co_await session.call("GET", "/status", "");
}

Result<std::string> status_of(const Target& target) {
  Result<std::string> status = std::string();
  run_to_end(ask_for_status(target, status));
  return status;
}

std::int64_t waiting_in(const Result<std::string>& status) {
  simdjson::dom::parser parser;
  std::int64_t waiting = 0;
  if (status.ok() && parser.parse(*status)["warmPool"]["waiting"].get(waiting) != simdjson::SUCCESS)
    waiting = 0;
  return waiting;
}

}  // namespace

std::vector<std::string> text_members(const std::string& json, std::string_view name) {
  std::vector<std::string> texts;
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  if (parser.parse(json).get(document) == simdjson::SUCCESS) collect(document, name, texts);
  return texts;
}

std::string text_member(const std::string& json, std::string_view name) {
  const auto texts = text_members(json, name);
  return texts.empty() ? "" : texts.front();
}

bool waiting_at_least(const Target& target, int count) { return waiting_in(status_of(target)) >= count; }

bool wait_for_warm(const Target& target, int count) {
  const auto give_up = Clock::now() + warm_patience;
  for (;;) {
    const auto status = status_of(target);
    if (waiting_in(status) >= count) return true;
    if (Clock::now() >= give_up) {
      complain(make_error(ErrorCode::deadline_exceeded, "the warm pool has not grown in a minute",
                          status.ok() ? *status : status.error().describe()));
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace cube::bench
