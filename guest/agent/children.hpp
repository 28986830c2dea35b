// Children: starting programs and reaping them. The process with id 1 inherits every orphan of the guest, so
// it reaps all of them; a child that has an owner here is reported to it.
#pragma once

#include <sys/types.h>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <cube/core.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "settings.hpp"

namespace cube::agent {

/// One child process, from fork until its owner lets go of it.
class Child {
 public:
  Child(asio::any_io_executor loop, pid_t pid);

  pid_t pid() const { return pid_; }
  /// As wait(2) has it; nothing while the child runs.
  std::optional<int> status() const { return status_; }
  asio::awaitable<int> wait();
  /// To its process group. Nothing once it was reaped: its id may be another's.
  void signal(int number) const;

 private:
  friend class Children;
  void exited(int status);

  pid_t pid_;
  std::optional<int> status_;
  asio::steady_timer exit_;  ///< never expires; cancelled at the exit
};

struct Program {
  std::vector<std::string> arguments;    ///< [0] is the program, searched in the environment's PATH
  std::vector<std::string> environment;  ///< "NAME=value"
  std::string directory;
  User user;
};

/// Descriptors the program gets as 0, 1 and 2; borrowed for the call.
struct Stdio {
  int input = -1;
  int output = -1;
  int error = -1;
  bool terminal = false;  ///< `input` becomes the controlling terminal
};

class Children {
 public:
  enum class Scope { every_child, own_children };  ///< every_child: also orphans, for process id 1

  /// Blocks SIGCHLD in this thread: it is read from a signalfd instead. `cgroup`: the directory of the
  /// control group programs start in, or empty.
  static Result<std::unique_ptr<Children>> create(asio::any_io_executor loop, Scope scope,
                                                  const std::string& cgroup = {});
  ~Children();
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  /// Starts a program as the leader of a session of its own. Returns once the program's image runs, or with
  /// why it does not: `invalid_argument` for a directory or a program that does not exist or may not be used.
  Result<std::shared_ptr<Child>> spawn(const Program& program, const Stdio& stdio);

  /// Runs `task` in a forked copy of the agent, which then ends with its return value.
  Result<std::shared_ptr<Child>> fork_task(int (*task)());

 private:
  struct Reaper;
  Children(asio::any_io_executor loop, std::shared_ptr<Reaper> reaper, Fd cgroup);

  asio::any_io_executor loop_;
  std::shared_ptr<Reaper> reaper_;
  Fd cgroup_;
};

/// "exit status 3", "signal: killed": a wait(2) status in the words of E2B's clients.
std::string describe_status(int status);
/// The exit code; -1 for a process that a signal ended.
int exit_code_of(int status);

}  // namespace cube::agent
