// The command line: what all commands share, and how one is declared.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client.hpp"

namespace cube::cubectl {

/// What a command works with.
struct Session {
  Client client;
  bool json = false;
  std::vector<std::string> after_dashes;  ///< what followed "--"
};

using Outcome = Result<int>;  ///< the exit status
using Work = std::function<asio::awaitable<Outcome>(Session&)>;

/// The types of arguments, as --help shows them; completion knows what to offer for each.
inline constexpr const char* sandbox_type = "SANDBOX";
inline constexpr const char* template_type = "TEMPLATE";
inline constexpr const char* snapshot_type = "SNAPSHOT";
inline constexpr const char* copy_type = "PATH|SANDBOX:PATH";

struct CommandLine {
  CommandLine();

  /// What `command` does, with options that it was given. Declare its options first.
  template <class Options>
  void runs(CLI::App* command, std::shared_ptr<Options> options,
            asio::awaitable<Outcome> (*run)(Session&, const Options&)) {
    command->fallthrough();
    command->callback(
        [this, options, run] { work = [options, run](Session& session) { return run(session, *options); }; });
  }

  /// A group of commands.
  CLI::App* group(const std::string& name, const std::string& description);

  CLI::App app;
  TargetOptions target;
  bool json = false;
  Work work;                            ///< of the command that was chosen
  std::function<int()> immediate;       ///< of one that needs no daemon
  std::vector<CLI::App*> takes_dashes;  ///< commands that "--" is for
};

// Each adds its commands.
void add_sandbox_commands(CommandLine& line, CLI::App& group);
void add_lifecycle_commands(CommandLine& line, CLI::App& group);
void add_copying_commands(CommandLine& line, CLI::App& group);
void add_exec_commands(CommandLine& line, CLI::App& group);
void add_copy_command(CommandLine& line, CLI::App& group);
void add_watch_commands(CommandLine& line, CLI::App& group);
void add_template_commands(CommandLine& line);
void add_snapshot_commands(CommandLine& line);
void add_status_command(CommandLine& line);
void add_completion_commands(CommandLine& line);

/// An option of NAME=VALUE that may be given again and again.
CLI::Option* add_repeated(CLI::App* command, const std::string& name, std::vector<std::string>& values,
                          const std::string& description);

/// "a=b=c" to {"a", "b=c"}.
std::map<std::string, std::string> to_map(const std::vector<std::string>& pairs);

/// Reads the command line, does what it says, and tells what went wrong. The process's exit status.
int run_command_line(CommandLine& line, int argc, char** argv);

/// "cubectl: what went wrong", on one line of standard error.
void complain(const std::string& what);
void complain(const Error& error);

}  // namespace cube::cubectl
