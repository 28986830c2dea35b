#include "proxy/tunnel.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

namespace cube::proxy {
namespace {

constexpr std::chrono::seconds last_words{2};
constexpr std::size_t copy_size = 64 << 10;

struct Tunnel {
  Tunnel(const asio::any_io_executor& loop, std::unique_ptr<Stream> client_side,
         std::unique_ptr<Stream> guest_side)
      : client(std::move(client_side)), guest(std::move(guest_side)), client_ended(loop) {
    client_ended.expires_at(asio::steady_timer::time_point::max());
  }

  std::unique_ptr<Stream> client;
  std::unique_ptr<Stream> guest;
  bool client_open = true;
  asio::steady_timer client_ended;
};

/// Copies until `from` ends. True for an end in good order.
asio::awaitable<bool> copy(Stream& from, Stream& to) {
  const auto bytes = std::make_unique_for_overwrite<char[]>(copy_size);
  for (;;) {
    const auto count = co_await from.read_some(asio::buffer(bytes.get(), copy_size));
    if (!count.ok()) co_return false;
    if (*count == 0) co_return true;
    const auto sent = co_await to.write(asio::buffer(bytes.get(), *count));
    if (!sent.ok()) co_return false;
  }
}

asio::awaitable<void> client_to_guest(std::shared_ptr<Tunnel> tunnel) {
  struct End {
    Tunnel& tunnel;
    ~End() {
      tunnel.guest->close();
      tunnel.client_open = false;
      tunnel.client_ended.cancel();
    }
  };
  const End end{*tunnel};
  co_await copy(*tunnel->client, *tunnel->guest);
}

asio::awaitable<void> wait_for_client(std::shared_ptr<Tunnel> tunnel,
                                      asio::steady_timer::time_point deadline) {
  tunnel->client_ended.expires_at(deadline);
  asio::error_code ignored;
  while (tunnel->client_open && std::chrono::steady_clock::now() < deadline)
    co_await tunnel->client_ended.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

}  // namespace

asio::awaitable<void> run_tunnel(asio::any_io_executor loop, std::unique_ptr<Stream> client,
                                 std::unique_ptr<Stream> guest) {
  const auto tunnel = std::make_shared<Tunnel>(loop, std::move(client), std::move(guest));
  asio::co_spawn(loop, client_to_guest(tunnel), asio::detached);
  const bool in_good_order = co_await copy(*tunnel->guest, *tunnel->client);
  if (in_good_order && tunnel->client_open) {
    tunnel->client->shutdown_write();
    co_await wait_for_client(tunnel, std::chrono::steady_clock::now() + last_words);
  }
  tunnel->client->close();
  tunnel->guest->close();
  co_await wait_for_client(tunnel, asio::steady_timer::time_point::max());
}

}  // namespace cube::proxy
