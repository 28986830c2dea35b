#include "command_line.hpp"

#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <csignal>
#include <cstdio>

#include "human.hpp"

namespace cube::cubectl {
namespace {

constexpr int failed = 1;
constexpr int misused = 2;

asio::awaitable<void> work_to_end(const Work& work, Session& session, std::optional<Outcome>& outcome) {
  outcome.emplace(co_await work(session));
}

/// Everything a command does happens on one loop, which ends with it: whatever else still waits is dropped.
Outcome run(const Work& work, Session& session) {
  asio::io_context loop(1);
  std::optional<Outcome> outcome;
  std::exception_ptr failure;
  asio::co_spawn(loop, work_to_end(work, session, outcome), [&](std::exception_ptr exception) {
    failure = exception;
    session.client.disconnect();
    loop.stop();
  });
  loop.run();
  if (failure) std::rethrow_exception(failure);
  if (!outcome) return make_error(ErrorCode::internal, "the command never ended");
  return std::move(*outcome);
}

int run_chosen(CommandLine& line, std::vector<std::string> after_dashes) {
  auto target = find_target(line.target);
  if (!target.ok()) {
    complain(target.error());
    return failed;
  }
  Session session{Client(std::move(*target)), line.json, std::move(after_dashes)};
  const Outcome outcome = run(line.work, session);
  if (std::fflush(stdout) != 0) {
    complain(os_error(errno, "cannot write to standard output"));
    return failed;
  }
  if (outcome.ok()) return *outcome;
  complain(outcome.error());
  return failed;
}

/// What CLI11 would take apart.
bool looks_like_a_list(std::string_view word) { return word.starts_with('[') && word.ends_with(']'); }

/// The command that the words so far chose.
const CLI::App* chosen(const CLI::App* app) {
  for (;;) {
    const auto below = app->get_subcommands();
    if (below.empty()) return app;
    app = below.front();
  }
}

std::string full_name(const CLI::App* app) {
  return app->get_parent() ? full_name(app->get_parent()) + " " + app->get_name() : app->get_name();
}

int explain(CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
  std::string what = error.what();
  // Of a word that is no command CLI11 only says that one is missing.
  const auto unknown = app.remaining(true);
  if (dynamic_cast<const CLI::RequiredError*>(&error) && !unknown.empty())
    what = "'" + unknown.front() + "' is not a command";
  complain(what + "; see " + full_name(chosen(&app)) + " --help");
  return misused;
}

const CLI::Validator name_and_value(
    [](std::string& text) {
      const std::size_t equals = text.find('=');
      return equals == std::string::npos || equals == 0 ? "'" + text + "' is not NAME=VALUE" : std::string();
    },
    "", "name_and_value");

}  // namespace

CommandLine::CommandLine() : app("cubectl: the command line of a cubed daemon", "cubectl") {
  app.set_version_flag("--version", std::string("cubectl ") + CUBED_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.add_option("--api-url", target.url, "the daemon [$E2B_API_URL, $CUBED_API_URL, http://127.0.0.1:3000]");
  app.add_option("--api-key", target.api_key, "its key [$E2B_API_KEY, $CUBED_API_KEY]");
  app.add_option("--api-key-file", target.api_key_file,
                 "a file with its key [$CUBED_API_KEY_FILE, /var/lib/cubed/api-key]");
  app.add_flag("--json", json, "print JSON: one document, or one line an event");
  app.footer(
      "Exit status: 0 done, 1 failed, 2 misused; `sandbox exec` and `sandbox shell` have the command's.");
}

CLI::App* CommandLine::group(const std::string& name, const std::string& description) {
  CLI::App* added = app.add_subcommand(name, description);
  added->require_subcommand(1);
  added->fallthrough();
  return added;
}

CLI::Option* add_repeated(CLI::App* command, const std::string& name, std::vector<std::string>& values,
                          const std::string& description) {
  return command->add_option(name, values, description + "; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false)
      ->check(name_and_value);
}

std::map<std::string, std::string> to_map(const std::vector<std::string>& pairs) {
  std::map<std::string, std::string> map;
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    map.insert_or_assign(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return map;
}

int run_command_line(CommandLine& line, int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // a daemon that goes is an error like others
  // CLI11 takes "[a]" apart and reads options anywhere: what is behind "--" is none of its business.
  const auto dashes =
      std::find_if(argv + 1, argv + argc, [](const char* word) { return std::string_view(word) == "--"; });
  std::vector<std::string> after_dashes;
  if (dashes != argv + argc) after_dashes.assign(dashes + 1, argv + argc);
  try {
    line.app.parse(static_cast<int>(dashes - argv), argv);
  } catch (const CLI::ParseError& error) {
    return explain(line.app, error);
  }
  const bool takes_dashes = std::ranges::count(line.takes_dashes, chosen(&line.app)) > 0;
  if (dashes != argv + argc && !takes_dashes) {
    complain("nothing may follow -- here; see " + full_name(chosen(&line.app)) + " --help");
    return misused;
  }
  if (takes_dashes && std::any_of(argv + 1, dashes, looks_like_a_list)) {
    complain("put -- before a command that has [brackets]");
    return misused;
  }
  if (line.immediate) return line.immediate();
  return run_chosen(line, std::move(after_dashes));
}

void complain(const std::string& what) { std::fprintf(stderr, "cubectl: %s\n", printable(what).c_str()); }

void complain(const Error& error) { complain(error.describe()); }

}  // namespace cube::cubectl
