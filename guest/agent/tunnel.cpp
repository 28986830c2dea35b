#include "tunnel.hpp"

#include <array>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <cube/guest.hpp>
#include <cube/http.hpp>
#include <vector>

namespace cube::agent {
namespace {

constexpr std::size_t buffer_size = 64 << 10;
constexpr std::chrono::seconds request_timeout{10};
constexpr std::chrono::seconds connect_timeout{10};

struct Tunnel {
  std::unique_ptr<Stream> outside;
  std::unique_ptr<Stream> inside;
};

/// One direction: end of stream is passed on as a half-close; an error ends both directions.
asio::awaitable<void> copy(std::shared_ptr<Tunnel> tunnel, bool inwards) {
  Stream& from = inwards ? *tunnel->outside : *tunnel->inside;
  Stream& to = inwards ? *tunnel->inside : *tunnel->outside;
  std::vector<std::byte> buffer(buffer_size);
  for (;;) {
    const auto count = co_await from.read_some(asio::buffer(buffer));
    if (!count) break;
    if (*count == 0) {
      to.shutdown_write();
      co_return;
    }
    if (const auto written = co_await to.write(asio::buffer(buffer.data(), *count)); !written) break;
  }
  tunnel->outside->close();
  tunnel->inside->close();
}

asio::awaitable<Result<std::uint16_t>> read_port(std::shared_ptr<Stream> stream) {
  // A connection that never says where it leads must not be kept for ever.
  asio::steady_timer timer(co_await asio::this_coro::executor, request_timeout);
  timer.async_wait([stream](const asio::error_code& cancelled) {
    if (!cancelled) stream->close();
  });
  std::array<std::uint8_t, 2> bytes{};
  for (std::size_t have = 0; have < bytes.size();) {
    const auto count = co_await stream->read_some(asio::buffer(bytes.data() + have, bytes.size() - have));
    if (!count) co_return count.error();
    if (*count == 0)
      co_return make_error(ErrorCode::invalid_argument, "the connection ended before the port");
    have += *count;
  }
  co_return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}

asio::awaitable<Result<std::unique_ptr<Stream>>> connect_loopback(std::uint16_t port) {
  auto connected = co_await http::connect_tcp("127.0.0.1", port, connect_timeout);
  if (!connected) connected = co_await http::connect_tcp("::1", port, connect_timeout);
  co_return connected;
}

asio::awaitable<Result<void>> answer(Stream& stream, guest::TunnelAnswer value) {
  const auto byte = static_cast<std::uint8_t>(value);
  co_return co_await stream.write(asio::buffer(&byte, 1));
}

}  // namespace

asio::awaitable<void> serve_tunnel(std::unique_ptr<Stream> connection) {
  auto tunnel = std::make_shared<Tunnel>();
  tunnel->outside = std::move(connection);
  const auto port = co_await read_port(std::shared_ptr<Stream>(tunnel, tunnel->outside.get()));
  if (!port) co_return;
  if (*port == 0) {
    static_cast<void>(co_await answer(*tunnel->outside, guest::TunnelAnswer::malformed));
    co_return;
  }
  auto inside = co_await connect_loopback(*port);
  if (!inside) {
    static_cast<void>(co_await answer(*tunnel->outside, guest::TunnelAnswer::refused));
    co_return;
  }
  tunnel->inside = std::move(*inside);
  if (const auto answered = co_await answer(*tunnel->outside, guest::TunnelAnswer::connected); !answered)
    co_return;
  asio::co_spawn(co_await asio::this_coro::executor, copy(tunnel, true), asio::detached);
  co_await copy(tunnel, false);
}

}  // namespace cube::agent
