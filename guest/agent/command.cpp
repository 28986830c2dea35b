#include "command.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>

namespace cube::agent {
namespace {

constexpr std::size_t output_limit = 64 << 10;

struct Output {
  explicit Output(asio::any_io_executor loop, int descriptor) : pipe(std::move(loop), descriptor) {}

  asio::posix::stream_descriptor pipe;
  std::string tail;

  /// Takes what is there now; false at the end or if there is nothing.
  bool take() {
    std::array<char, 16 << 10> chunk;
    const ssize_t count = ::read(pipe.native_handle(), chunk.data(), chunk.size());
    if (count <= 0) return count < 0 && errno == EINTR;
    tail.append(chunk.data(), static_cast<std::size_t>(count));
    if (tail.size() > output_limit) tail.erase(0, tail.size() - output_limit);
    return true;
  }
};

asio::awaitable<void> collect(std::shared_ptr<Output> output) {
  for (;;) {
    asio::error_code error;
    co_await output->pipe.async_wait(asio::posix::stream_descriptor::wait_read,
                                     asio::redirect_error(asio::use_awaitable, error));
    if (error || !output->take()) co_return;
  }
}

}  // namespace

asio::awaitable<Result<CommandResult>> run_command(asio::any_io_executor loop, Children& children,
                                                   Program program, std::chrono::milliseconds timeout) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) co_return os_error(errno, "cannot create a pipe");
  auto output = std::make_shared<Output>(loop, ends[0]);
  output->pipe.non_blocking(true);
  Fd write_end(ends[1]);
  auto null = open_file("/dev/null", O_RDONLY);
  if (!null) co_return std::move(null).error();

  Stdio stdio;
  stdio.input = null->get();
  stdio.output = stdio.error = write_end.get();
  auto child = children.spawn(program, stdio);
  if (!child) co_return std::move(child).error();
  write_end.reset();

  auto timed_out = std::make_shared<bool>(false);
  asio::steady_timer timer(loop, timeout);
  timer.async_wait([process = *child, timed_out](const asio::error_code& cancelled) {
    if (cancelled) return;
    *timed_out = true;
    process->signal(SIGKILL);
  });
  asio::co_spawn(loop, collect(output), asio::detached);
  const int status = co_await (*child)->wait();
  output->pipe.cancel();
  for (int piece = 0; piece < 64 && output->take();) ++piece;  // a pipe holds at most 1 MiB
  CommandResult result;
  result.status = status;
  result.output = std::move(output->tail);
  result.timed_out = *timed_out;
  co_return result;
}

}  // namespace cube::agent
