// cubectl sandbox exec, and cubectl sandbox shell.
#include <simdjson.h>
#include <unistd.h>

#include <algorithm>

#include "attached_process.hpp"
#include "json.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

struct WhoAndWhere {
  std::string user, directory;
  std::vector<std::string> environment;
};

struct ExecOptions {
  std::string id;
  WhoAndWhere where;
  bool background = false, terminal = false;
  std::vector<std::string> words;
};

struct ShellOptions {
  std::string id;
  WhoAndWhere where;
  std::string template_reference = "base";
  std::int64_t timeout = 300;
};

/// As E2B's CLI has it: one word is a command line for the shell, several are the words of a command.
std::string shell_line(const std::vector<std::string>& words) {
  if (words.size() == 1) return words.front();
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += ' ';
    line += '\'';
    for (const char c : word)
      if (c == '\'')
        line += R"('\'')";
      else
        line += c;
    line += '\'';
  }
  return line;
}

/// Requests are JSON, which is UTF-8: other bytes would arrive as something else.
Result<void> check_utf8(const ProcessRequest& request) {
  const auto check = [](const std::string& text) -> Result<void> {
    if (simdjson::validate_utf8(text)) return {};
    return make_error(ErrorCode::invalid_argument, "not UTF-8, and cannot be passed on", text);
  };
  for (const std::string& argument : request.arguments) CUBE_TRY(check(argument));
  for (const auto& [name, value] : request.environment) CUBE_TRY(check(name + "=" + value));
  return check(request.directory);
}

ProcessRequest make_request(const WhoAndWhere& where, std::vector<std::string> shell_arguments) {
  ProcessRequest request;
  request.command = "/bin/bash";
  request.arguments = std::move(shell_arguments);
  request.environment = to_map(where.environment);
  request.directory = where.directory;
  return request;
}

awaitable<Outcome> run_in_background(Session& session, Sandbox sandbox, ProcessRequest request) {
  auto stream = co_await ProcessStream::start(session.client, std::move(sandbox), std::move(request));
  if (!stream) co_return std::move(stream).error();
  const std::string pid = std::to_string((*stream)->pid());
  print_json(session.json ? "{\"pid\":" + pid + "}" : pid);
  co_return 0;
}

Result<std::vector<std::string>> command_words(const Session& session, const ExecOptions& options) {
  std::vector<std::string> words = options.words;
  words.insert(words.end(), session.after_dashes.begin(), session.after_dashes.end());
  if (words.empty())
    return make_error(ErrorCode::invalid_argument, "no command: cubectl sandbox exec SANDBOX -- COMMAND...");
  return words;
}

awaitable<Outcome> execute(Session& session, const ExecOptions& options) {
  const auto words = command_words(session, options);
  if (!words.ok()) co_return words.error();
  std::vector<std::string> arguments;
  arguments.push_back("-l");
  arguments.push_back("-c");
  arguments.push_back(shell_line(*words));
  ProcessRequest request = make_request(options.where, std::move(arguments));
  const auto passable = check_utf8(request);
  if (!passable.ok()) co_return passable.error();
  auto sandbox = co_await reach_sandbox(session.client, options.id, options.where.user);
  if (!sandbox) co_return std::move(sandbox).error();
  if (options.terminal) co_return co_await run_in_terminal(session, std::move(*sandbox), std::move(request));
  if (options.background)
    co_return co_await run_in_background(session, std::move(*sandbox), std::move(request));
  request.input = ::isatty(0) != 1;  // a user's keys are for --tty
  co_return co_await run_attached(session, std::move(*sandbox), std::move(request));
}

std::string create_body(const ShellOptions& options) {
  JsonWriter json;
  json.begin_object().key("templateID").value(options.template_reference);
  json.key("timeout").value(options.timeout).end_object();
  return json.take();
}

awaitable<Outcome> open_shell(Session& session, const ShellOptions& options, std::string id) {
  std::vector<std::string> arguments;
  arguments.push_back("-i");
  arguments.push_back("-l");
  ProcessRequest request = make_request(options.where, std::move(arguments));
  const auto passable = check_utf8(request);
  if (!passable.ok()) co_return passable.error();
  auto sandbox = co_await reach_sandbox(session.client, std::move(id), options.where.user);
  if (!sandbox) co_return std::move(sandbox).error();
  co_return co_await run_in_terminal(session, std::move(*sandbox), std::move(request));
}

/// In a sandbox of its own, which goes with it.
awaitable<Outcome> open_shell_of_its_own(Session& session, const ShellOptions& options) {
  if (::isatty(0) != 1 || ::isatty(1) != 1)
    co_return make_error(ErrorCode::invalid_argument, "standard input and output are no terminal");
  const auto answer = co_await session.client.request("POST", "/v2/sandboxes", create_body(options));
  if (!answer.ok()) co_return answer.error();
  const auto created = JsonDocument::parse(answer->body);
  if (!created.ok()) co_return created.error();
  const std::string id = json_string(created->root(), "sandboxID");
  complain("sandbox " + id + ", until this shell ends");
  auto outcome = co_await open_shell(session, options, id);
  const auto killed = co_await session.client.request("DELETE", "/sandboxes/" + url_encode(id));
  if (!killed.ok() && killed.error().code != ErrorCode::not_found) complain(killed.error());
  co_return outcome;
}

awaitable<Outcome> shell(Session& session, const ShellOptions& options) {
  if (options.id.empty()) co_return co_await open_shell_of_its_own(session, options);
  co_return co_await open_shell(session, options, options.id);
}

void add_where(CLI::App* command, WhoAndWhere& where) {
  command->add_option("-u,--user", where.user, "whom to be inside [the sandbox's default user]");
  command->add_option("-c,--cwd", where.directory, "working directory [the user's home]");
  add_repeated(command, "-e,--env", where.environment, "an environment variable");
}

}  // namespace

void add_exec_commands(CommandLine& line, CLI::App& group) {
  auto exec = std::make_shared<ExecOptions>();
  auto* command = group.add_subcommand("exec", "run a command in a sandbox; its exit status is ours");
  command->add_option("sandbox", exec->id)->required()->type_name(sandbox_type);
  command->add_option("command", exec->words, "put it behind -- if it has options")->type_name("WORD");
  add_where(command, exec->where);
  auto* background =
      command->add_flag("-b,--background", exec->background, "print its process id and leave it running");
  command->add_flag("-t,--tty", exec->terminal, "in a pseudo-terminal that is yours")->excludes(background);
  command->footer(
      "One word is a line for bash, several are the words of a command. Standard input is passed on unless "
      "it is a\n"
      "terminal. Ctrl-C ends the command (SIGTERM, pressed again SIGKILL) and exits with 130. A paused "
      "sandbox is\n"
      "resumed; the timeout of a running one stays as it is.\n"
      "Example: cubectl sandbox exec SANDBOX -- python3 -c 'print(6 * 7)'");
  line.takes_dashes.push_back(command);
  line.runs(command, exec, execute);

  auto session = std::make_shared<ShellOptions>();
  command = group.add_subcommand("shell", "a login shell in a sandbox, or in a new one that goes with it");
  auto* id = command->add_option("sandbox", session->id, "[a new one]")->type_name(sandbox_type);
  command->add_option("--template", session->template_reference, "of the new one")
      ->type_name(template_type)
      ->capture_default_str()
      ->excludes(id);
  command->add_option("--timeout", session->timeout, "seconds that the new one lives if we cannot kill it")
      ->type_name("SECONDS")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str()
      ->excludes(id);
  add_where(command, session->where);
  command->footer(
      "The sandbox is kept alive while the shell runs; the shell's exit status is ours. Without SANDBOX one "
      "is created,\n"
      "and killed when the shell ends.");
  line.runs(command, session, shell);
}

}  // namespace cube::cubectl
