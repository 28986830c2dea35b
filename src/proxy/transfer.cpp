#include "proxy/transfer.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

namespace cube::proxy {
namespace {

// A piece is passed on as soon as it is there; this only bounds it.
constexpr std::size_t piece_size = 64 << 10;

/// Not in the coroutine's frame: that is made for every request.
struct Piece {
  std::unique_ptr<char[]> bytes = std::make_unique_for_overwrite<char[]>(piece_size);
  asio::mutable_buffer space() { return asio::buffer(bytes.get(), piece_size); }
  asio::const_buffer first(std::size_t count) const { return asio::buffer(bytes.get(), count); }
};

asio::awaitable<void> carry_body(http::Exchange& exchange, std::shared_ptr<Transfer> transfer) {
  struct End {
    Transfer& transfer;
    ~End() {
      transfer.body_running = false;
      transfer.changed.cancel();
    }
  };
  const End end{*transfer};
  Piece piece;
  for (;;) {
    const auto count = co_await exchange.read_body(piece.space());
    if (!count.ok()) {
      transfer->body_malformed = count.error().code == ErrorCode::invalid_argument;
      transfer->guest->close();  // half a body must not look whole
      co_return;
    }
    if (*count == 0) break;
    const auto sent = co_await transfer->guest->write(piece.first(*count));
    if (!sent.ok()) co_return;  // the guest may have answered without reading it all; the response tells
  }
  const auto finished = co_await transfer->guest->finish();
  static_cast<void>(finished);  // the same
}

}  // namespace

void Transfer::client_left() {
  client_gone = true;
  if (guest) guest->close();
  changed.cancel();
}

void start_body(http::Exchange& exchange, const std::shared_ptr<Transfer>& transfer) {
  transfer->body_running = true;
  asio::co_spawn(exchange.executor(), carry_body(exchange, transfer), asio::detached);
}

asio::awaitable<void> body_ended(std::shared_ptr<Transfer> transfer) {
  asio::error_code ignored;
  while (transfer->body_running)
    co_await transfer->changed.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

asio::awaitable<bool> carry_response_body(http::Exchange& exchange, std::shared_ptr<Transfer> transfer) {
  Piece piece;
  for (;;) {
    const auto count = co_await transfer->guest->read_body(piece.space());
    if (!count.ok()) co_return false;
    if (*count == 0) break;
    const auto sent = co_await exchange.write(piece.first(*count));
    if (!sent.ok()) co_return false;
  }
  const auto finished = co_await exchange.finish();
  co_return finished.ok();
}

}  // namespace cube::proxy
