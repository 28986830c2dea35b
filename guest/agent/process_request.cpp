#include "process_request.hpp"

#include "children.hpp"

namespace cube::agent {
namespace {

Error invalid(std::string message) { return make_error(ErrorCode::invalid_argument, std::move(message)); }

Result<std::uint16_t> dimension(const JsonObject& size, std::string_view name) {
  auto value = size.integer(name);
  if (!value) return std::move(value).error();
  if (*value < 1 || *value > 0xffff) return invalid("pty size must have cols and rows between 1 and 65535");
  return static_cast<std::uint16_t>(*value);
}

Result<void> check_text(const std::string& text) {
  if (text.find('\0') != std::string::npos)
    return invalid("commands, arguments and paths cannot contain NUL");
  return {};
}

Result<ProcessConfig> parse_config(const JsonObject& process) {
  auto command = process.string("cmd");
  if (!command) return std::move(command).error();
  auto arguments = process.strings("args");
  if (!arguments) return std::move(arguments).error();
  auto environment = process.string_map("envs");
  if (!environment) return std::move(environment).error();
  auto directory = process.string("cwd");
  if (!directory) return std::move(directory).error();
  if (command->empty()) return invalid("process.cmd is missing");
  CUBE_TRY(check_text(*command));
  CUBE_TRY(check_text(*directory));
  for (const std::string& argument : *arguments) CUBE_TRY(check_text(argument));
  return ProcessConfig{std::move(*command), std::move(*arguments), std::move(*environment),
                       std::move(*directory)};
}

}  // namespace

std::string ProcessSelector::describe() const {
  return pid != 0 ? "process with pid " + std::to_string(pid) : "process with tag '" + tag + "'";
}

Result<StartRequest> parse_start(const JsonObject& message) {
  auto process = message.object("process");
  if (!process) return std::move(process).error();
  auto config = parse_config(*process);
  if (!config) return std::move(config).error();
  auto terminal = parse_terminal(message);
  if (!terminal) return std::move(terminal).error();
  auto tag = message.string("tag");
  if (!tag) return std::move(tag).error();
  auto input = message.boolean("stdin", true);
  if (!input) return std::move(input).error();
  return StartRequest{std::move(*config), *terminal, std::move(*tag), *input};
}

Result<ProcessSelector> parse_selector(const JsonObject& message) {
  auto process = message.object("process");
  if (!process) return std::move(process).error();
  auto pid = process->integer("pid");
  if (!pid) return std::move(pid).error();
  auto tag = process->string("tag");
  if (!tag) return std::move(tag).error();
  if (*pid == 0 && tag->empty()) return invalid("process must name a pid or a tag");
  return ProcessSelector{*pid, std::move(*tag)};
}

Result<std::optional<TerminalSize>> parse_terminal(const JsonObject& message) {
  if (!message.has("pty")) return std::optional<TerminalSize>{};
  auto terminal = message.object("pty");
  if (!terminal) return std::move(terminal).error();
  if (!terminal->has("size")) return std::optional<TerminalSize>{TerminalSize{}};
  auto size = terminal->object("size");
  if (!size) return std::move(size).error();
  auto columns = dimension(*size, "cols");
  if (!columns) return std::move(columns).error();
  auto rows = dimension(*size, "rows");
  if (!rows) return std::move(rows).error();
  return std::optional<TerminalSize>{TerminalSize{*columns, *rows}};
}

Result<ProcessInput> parse_input(const JsonObject& message) {
  auto input = message.object("input");
  if (!input) return std::move(input).error();
  const bool to_terminal = input->has("pty");
  if (!to_terminal && !input->has("stdin")) return invalid("input must hold stdin or pty");
  auto bytes = input->bytes(to_terminal ? "pty" : "stdin");
  if (!bytes) return std::move(bytes).error();
  return ProcessInput{to_terminal, std::move(*bytes)};
}

std::string start_event(std::int64_t pid) {
  return R"({"event":{"start":{"pid":)" + std::to_string(pid) + "}}}";
}

std::string data_event(OutputKind kind, std::string_view bytes) {
  std::string_view name = "stdout";
  if (kind == OutputKind::standard_error) name = "stderr";
  if (kind == OutputKind::terminal) name = "pty";
  const std::string encoded = base64_encode(bytes);
  std::string event;
  event.reserve(encoded.size() + 40);
  event.append(R"({"event":{"data":{")").append(name).append(R"(":")").append(encoded).append(R"("}}})");
  return event;
}

std::string end_event(int status) {
  const int code = exit_code_of(status);
  const std::string description = describe_status(status);
  JsonWriter json;
  json.begin_object().key("event").begin_object().key("end").begin_object();
  json.key("exitCode").value(code).key("exited").value(code >= 0).key("status").value(description);
  if (code != 0) json.key("error").value(description);
  json.end_object().end_object().end_object();
  return json.take();
}

std::string keepalive_event() { return R"({"event":{"keepalive":{}}})"; }

}  // namespace cube::agent
