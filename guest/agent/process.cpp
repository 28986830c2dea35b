#include "process.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>
#include <cstdlib>

namespace cube::agent {
namespace {

constexpr std::size_t chunk_limit = 32 << 10;
constexpr std::size_t terminal_chunk_limit = 16 << 10;
constexpr auto never = asio::steady_timer::time_point::max();

struct Pipe {
  Fd read_end;
  Fd write_end;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return os_error(errno, "cannot create a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

winsize to_winsize(TerminalSize size) {
  winsize result{};
  result.ws_col = size.columns;
  result.ws_row = size.rows;
  return result;
}

}  // namespace

Process::Process(asio::any_io_executor loop, StartRequest request)
    : loop_(loop),
      request_(std::move(request)),
      events_(std::make_shared<Broadcast>(loop)),
      deadline_(loop, never) {}

asio::awaitable<Result<std::shared_ptr<Process>>> Process::launch(asio::any_io_executor loop,
                                                                  Children& children, Program program,
                                                                  StartRequest request) {
  auto process = std::make_shared<Process>(loop, std::move(request));
  std::vector<Fd> child_ends;
  Result<Stdio> stdio = process->request_.terminal
                            ? process->open_terminal(*process->request_.terminal, program.user, child_ends)
                            : process->open_pipes(child_ends);
  if (!stdio) co_return std::move(stdio).error();
  auto child = children.spawn(program, *stdio);
  if (!child) co_return std::move(child).error();
  process->child_ = std::move(*child);
  co_return process;
}

Result<Stdio> Process::open_terminal(TerminalSize size, const User& user, std::vector<Fd>& child_ends) {
  Fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master || ::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0)
    return os_error(errno, "cannot create a terminal");
  Fd slave(::ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) return os_error(errno, "cannot open a terminal");
  const winsize window = to_winsize(size);
  if (::ioctl(master.get(), TIOCSWINSZ, &window) != 0)
    return os_error(errno, "cannot set the size of a terminal");
  if (::geteuid() == 0 && ::fchown(slave.get(), user.uid, static_cast<gid_t>(-1)) != 0)
    return os_error(errno, "cannot give a terminal to its user");

  terminal_ = std::make_shared<Descriptor>(loop_, master.release());
  outputs_.push_back({OutputKind::terminal, terminal_});
  input_ = std::make_unique<InputWriter>(loop_, terminal_);
  const Stdio stdio{slave.get(), slave.get(), slave.get(), true};
  child_ends.push_back(std::move(slave));
  return stdio;
}

Result<Stdio> Process::open_pipes(std::vector<Fd>& child_ends) {
  Stdio stdio;
  if (request_.input) {
    auto pipe = make_pipe();
    if (!pipe) return std::move(pipe).error();
    stdio.input = pipe->read_end.get();
    child_ends.push_back(std::move(pipe->read_end));
    input_ =
        std::make_unique<InputWriter>(loop_, std::make_shared<Descriptor>(loop_, pipe->write_end.release()));
  } else {
    auto null = open_file("/dev/null", O_RDONLY);
    if (!null) return std::move(null).error();
    stdio.input = null->get();
    child_ends.push_back(std::move(*null));
  }
  for (const OutputKind kind : {OutputKind::standard_output, OutputKind::standard_error}) {
    auto pipe = make_pipe();
    if (!pipe) return std::move(pipe).error();
    (kind == OutputKind::standard_output ? stdio.output : stdio.error) = pipe->write_end.get();
    child_ends.push_back(std::move(pipe->write_end));
    outputs_.push_back({kind, std::make_shared<Descriptor>(loop_, pipe->read_end.release())});
  }
  return stdio;
}

void Process::begin(std::optional<std::chrono::steady_clock::time_point> deadline, OnEnd on_end) {
  on_end_ = std::move(on_end);
  parts_ = outputs_.size() + 1;
  const auto self = shared_from_this();
  for (const Output& output : outputs_) asio::co_spawn(loop_, pump(self, output), asio::detached);
  asio::co_spawn(loop_, await_exit(self), asio::detached);
  if (!deadline) return;
  deadline_.expires_at(*deadline);
  asio::co_spawn(loop_, enforce(self), asio::detached);
}

asio::awaitable<void> Process::pump(std::shared_ptr<Process> self, Output output) {
  output.descriptor->non_blocking(true);
  std::size_t drain_budget = 1 << 20;  // the most a pipe holds
  for (;;) {
    co_await self->events_->wait_for_room();
    asio::error_code error;
    if (!self->draining_)
      co_await output.descriptor->async_wait(Descriptor::wait_read,
                                             asio::redirect_error(asio::use_awaitable, error));
    const ssize_t count = self->relay(output);
    if (count == 0 || (count < 0 && self->draining_)) break;
    if (count < 0 || !self->draining_) continue;
    if (drain_budget <= static_cast<std::size_t>(count)) break;
    drain_budget -= static_cast<std::size_t>(count);
  }
  self->part_ended();
}

// Not in the coroutine, whose frame would hold the buffer for as long as the process lives.
ssize_t Process::relay(const Output& output) {
  std::array<char, chunk_limit> chunk;
  const std::size_t limit = output.kind == OutputKind::terminal ? terminal_chunk_limit : chunk_limit;
  const ssize_t count = ::read(output.descriptor->native_handle(), chunk.data(), limit);
  // A terminal whose last process is gone answers EIO.
  if (count < 0) return errno == EAGAIN || errno == EINTR ? -1 : 0;
  if (count > 0 && events_->has_subscribers())
    events_->publish(
        data_event(output.kind, std::string_view(chunk.data(), static_cast<std::size_t>(count))));
  return count;
}

asio::awaitable<void> Process::await_exit(std::shared_ptr<Process> self) {
  co_await self->child_->wait();
  self->end_output_if_killed();
  self->part_ended();
}

asio::awaitable<void> Process::enforce(std::shared_ptr<Process> self) {
  asio::error_code cancelled;
  co_await self->deadline_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  if (!cancelled) self->signal(SIGKILL);
}

void Process::signal(int number) {
  if (number == SIGKILL || number == SIGTERM) killed_ = true;
  child_->signal(number);
  end_output_if_killed();
}

void Process::end_output_if_killed() {
  if (!killed_ || !child_->status() || draining_) return;
  draining_ = true;
  events_->open_valve();
  asio::error_code ignored;
  for (const Output& output : outputs_) output.descriptor->cancel(ignored);
}

void Process::part_ended() {
  if (--parts_ > 0) return;
  deadline_.cancel();
  if (input_) input_->close();
  asio::error_code ignored;
  for (const Output& output : outputs_) output.descriptor->close(ignored);
  const int status = *child_->status();
  events_->finish(end_event(status));
  if (const OnEnd on_end = std::move(on_end_)) on_end(status);
}

asio::awaitable<Result<void>> Process::write(ProcessInput input) {
  if (input.to_terminal != (terminal_ != nullptr))
    co_return make_error(ErrorCode::invalid_argument,
                         terminal_ ? "the process has a pty: send input to it, not to stdin"
                                   : "the process has no pty: send input to stdin");
  if (!input_) co_return make_error(ErrorCode::invalid_argument, "the process was started without stdin");
  const auto self = shared_from_this();
  co_return co_await input_->write(std::move(input.bytes));
}

Result<void> Process::close_input() {
  if (terminal_)
    return make_error(ErrorCode::invalid_argument,
                      "a pty's input cannot be closed: send end of file (0x04) instead");
  if (!input_) return make_error(ErrorCode::invalid_argument, "the process was started without stdin");
  input_->close();
  return {};
}

Result<void> Process::resize(TerminalSize size) {
  if (!terminal_) return make_error(ErrorCode::invalid_argument, "the process has no pty");
  const winsize window = to_winsize(size);
  if (::ioctl(terminal_->native_handle(), TIOCSWINSZ, &window) != 0)
    return os_error(errno, "cannot set the size of a terminal");
  return {};
}

}  // namespace cube::agent
