#include "http/splice.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>

namespace cube::http {
namespace {

/// What a reader that rests makes us hold, beside what the sockets do.
constexpr std::uint64_t pipe_bytes = 256 << 10;
/// What is moved without waiting before others have their turn.
constexpr std::uint64_t turn_bytes = 1 << 20;
/// So often a socket may be said to be ready when it is not: urgent data (MSG_OOB) would have us spin.
constexpr int most_vain_waits = 16;

struct Pipe {
  Fd out, in;

  static Result<Pipe> make() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return os_error(errno, "cannot make a pipe");
    Pipe pipe{Fd(ends[0]), Fd(ends[1])};
    ::fcntl(pipe.in.get(), F_SETPIPE_SZ, pipe_bytes);  // a smaller one works, too
    return pipe;
  }
};

enum class Way { from_socket, to_socket };

/// At least one byte as soon as the socket allows, or 0 at its end.
asio::awaitable<Result<std::uint64_t>> move_some(Way way, std::shared_ptr<StreamSocket> socket, int pipe,
                                                 std::uint64_t most) {
  const bool in = way == Way::from_socket;
  for (int waits = 0; waits < most_vain_waits; ++waits) {
    const int descriptor = socket->native_handle();  // or -1: it may have been closed
    const ssize_t count = ::splice(in ? descriptor : pipe, nullptr, in ? pipe : descriptor, nullptr, most,
                                   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count >= 0) co_return static_cast<std::uint64_t>(count);
    asio::error_code error(errno, asio::system_category());
    if (error == asio::error::interrupted) continue;
    if (error == asio::error::would_block)
      co_await socket->async_wait(in ? StreamSocket::wait_read : StreamSocket::wait_write,
                                  asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return socket_error(error, in ? "receive" : "send");
  }
  co_return make_error(ErrorCode::unavailable, "the connection moves no bytes though it is ready");
}

}  // namespace

asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                              std::shared_ptr<StreamSocket> to, std::uint64_t most) {
  const auto pipe = Pipe::make();
  if (!pipe.ok()) co_return std::uint64_t{0};
  std::uint64_t moved = 0, next_turn = turn_bytes;
  while (moved < most) {
    const std::uint64_t wanted = std::min(most - moved, pipe_bytes);
    auto held = co_await move_some(Way::from_socket, from, pipe->in.get(), wanted);
    if (!held.ok() || *held == 0) break;
    while (*held > 0) {
      auto sent = co_await move_some(Way::to_socket, to, pipe->out.get(), *held);
      if (!sent.ok()) co_return sent;
      if (*sent == 0) co_return make_error(ErrorCode::unavailable, "the peer takes nothing more");
      *held -= *sent;
      moved += *sent;
    }
    if (moved < next_turn) continue;
    next_turn = moved + turn_bytes;
    co_await asio::post(to->get_executor(), asio::use_awaitable);
  }
  co_return moved;
}

}  // namespace cube::http
