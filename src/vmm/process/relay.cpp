#include "vmm/process/relay.hpp"

#include <poll.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

namespace cube::vmm {
namespace {

using Socket = asio::local::stream_protocol::socket;
using asio::awaitable;

/// Shared by the two directions; the last one to end closes the socket.
struct Connection {
  Connection(const asio::any_io_executor& loop, std::function<void()> when_reset)
      : socket(loop), on_reset(std::move(when_reset)) {}

  /// Both directions find out.
  void reset() {
    on_reset();
    asio::error_code ignored;
    socket.close(ignored);
    stream->close();
  }

  Socket socket;
  std::unique_ptr<Stream> stream;
  std::function<void()> on_reset;
  // Touched only as far as there is data: an idle connection costs nothing of them.
  std::array<std::byte, 32 << 10> to_guest, to_host;
};

/// Whether the daemon has closed its end, and not only for writing.
bool hung_up(Socket& socket) {
  pollfd state{socket.native_handle(), 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

awaitable<void> relay_to_guest(std::shared_ptr<Connection> connection) {
  Socket& socket = connection->socket;
  asio::error_code error;
  for (;;) {
    const std::size_t count = co_await socket.async_read_some(
        asio::buffer(connection->to_guest), asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::eof && !hung_up(socket)) {
      connection->stream->shutdown_write();
      co_await socket.async_wait(Socket::wait_error, asio::redirect_error(asio::use_awaitable, error));
      error = asio::error::eof;
    }
    if (error) {
      connection->stream->close();
      co_return;
    }
    const auto written = co_await connection->stream->write(asio::buffer(connection->to_guest, count));
    // What the guest has sent may still be read: that it receives no more is not the connection's end.
    if (!written.ok()) co_return;
  }
}

awaitable<void> relay_to_host(std::shared_ptr<Connection> connection) {
  Socket& socket = connection->socket;
  asio::error_code error;
  for (;;) {
    const auto count = co_await connection->stream->read_some(asio::buffer(connection->to_host));
    if (!count) co_return connection->reset();
    if (*count == 0) {
      socket.shutdown(Socket::shutdown_send, error);
      co_return;
    }
    co_await asio::async_write(socket, asio::buffer(connection->to_host, *count),
                               asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return connection->stream->close();
  }
}

awaitable<void> connect(Machine& machine, ConnectRequest request, std::shared_ptr<Connection> connection) {
  auto stream = co_await machine.connect(request.guest_port, std::chrono::milliseconds(request.timeout_ms));
  const std::uint8_t answer =
      stream ? 0 : static_cast<std::uint8_t>(1 + static_cast<int>(stream.error().code));
  asio::error_code error;
  co_await asio::async_write(connection->socket, asio::buffer(&answer, 1),
                             asio::redirect_error(asio::use_awaitable, error));
  if (!stream || error) co_return;
  connection->stream = std::move(*stream);
  const auto loop = connection->socket.get_executor();
  asio::co_spawn(loop, relay_to_guest(connection), asio::detached);
  asio::co_spawn(loop, relay_to_host(connection), asio::detached);
}

}  // namespace

void relay(asio::any_io_executor loop, Machine& machine, ConnectRequest request, Fd socket,
           std::function<void()> on_reset) {
  auto connection = std::make_shared<Connection>(loop, std::move(on_reset));
  asio::error_code error;
  connection->socket.assign(asio::local::stream_protocol(), socket.get(), error);
  if (error) return;
  socket.release();
  asio::co_spawn(loop, connect(machine, request, std::move(connection)), asio::detached);
}

}  // namespace cube::vmm
