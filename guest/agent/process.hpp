// One process a user started: its pipes or terminal, its end.
#pragma once

#include <asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "children.hpp"
#include "process_io.hpp"
#include "process_request.hpp"

namespace cube::agent {

class Process : public std::enable_shared_from_this<Process> {
 public:
  /// Called with the wait(2) status once the process was reaped and its output has ended.
  using OnEnd = std::function<void(int status)>;

  /// Starts the program. Nothing of its output is read before begin().
  static asio::awaitable<Result<std::shared_ptr<Process>>> launch(asio::any_io_executor loop,
                                                                  Children& children, Program program,
                                                                  StartRequest request);
  Process(asio::any_io_executor loop, StartRequest request);

  pid_t pid() const { return child_->pid(); }
  const StartRequest& request() const { return request_; }
  Broadcast& events() { return *events_; }

  /// Reads and publishes output from now on. Kills the process group at `deadline`, if any.
  void begin(std::optional<std::chrono::steady_clock::time_point> deadline, OnEnd on_end);

  /// To the process group. After SIGTERM or SIGKILL the process's exit ends its output, whoever else holds it
  /// open.
  void signal(int number);
  asio::awaitable<Result<void>> write(ProcessInput input);
  Result<void> close_input();
  Result<void> resize(TerminalSize size);

 private:
  using Descriptor = asio::posix::stream_descriptor;
  struct Output {
    OutputKind kind;
    std::shared_ptr<Descriptor> descriptor;
  };

  Result<Stdio> open_terminal(TerminalSize size, const User& user, std::vector<Fd>& child_ends);
  Result<Stdio> open_pipes(std::vector<Fd>& child_ends);

  static asio::awaitable<void> pump(std::shared_ptr<Process> self, Output output);
  /// Reads and publishes once: how much, 0 at the end, negative if there is nothing now.
  ssize_t relay(const Output& output);
  static asio::awaitable<void> await_exit(std::shared_ptr<Process> self);
  static asio::awaitable<void> enforce(std::shared_ptr<Process> self);
  void end_output_if_killed();
  void part_ended();

  asio::any_io_executor loop_;
  StartRequest request_;
  std::shared_ptr<Child> child_;
  std::shared_ptr<Broadcast> events_;
  std::vector<Output> outputs_;
  std::shared_ptr<Descriptor> terminal_;  ///< the master side
  std::unique_ptr<InputWriter> input_;
  asio::steady_timer deadline_;
  OnEnd on_end_;
  std::size_t parts_ = 0;  ///< outputs not at their end, and the exit
  bool killed_ = false;
  bool draining_ = false;  ///< exited after a kill: publish what is there, wait for nothing
};

}  // namespace cube::agent
