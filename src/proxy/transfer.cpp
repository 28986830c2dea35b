#include "proxy/transfer.hpp"

#include <algorithm>
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

void note_fault(Transfer& transfer, const Error& error) {
  const bool clients =
      error.code == ErrorCode::invalid_argument || error.code == ErrorCode::deadline_exceeded;
  if (clients) transfer.body_fault = error;
}

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
      note_fault(*transfer, count.error());
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

asio::awaitable<bool> receive_first_piece(http::Exchange& exchange, std::shared_ptr<Transfer> transfer,
                                          std::uint64_t length) {
  std::string piece(static_cast<std::size_t>(std::min<std::uint64_t>(length, piece_size)), '\0');
  const auto count = co_await exchange.read_body(asio::buffer(piece));
  if (!count.ok()) {
    note_fault(*transfer, count.error());
    co_return false;
  }
  piece.resize(*count);
  transfer->first_piece = std::move(piece);
  transfer->body_follows = *count < length;
  co_return true;
}

asio::awaitable<bool> carry_response(http::Exchange& exchange, std::shared_ptr<Transfer> transfer,
                                     http::ResponseHead head) {
  auto piece = transfer->guest->piece_here();
  if (!piece.ok()) co_return false;
  auto sent = co_await exchange.begin(std::move(head), *piece);
  if (sent.ok() && !transfer->guest->body_ended()) sent = co_await transfer->guest->splice_body(exchange);
  while (sent.ok() && !transfer->guest->body_ended()) {
    piece = co_await transfer->guest->next_piece();
    if (!piece.ok()) co_return false;
    if (transfer->guest->body_ended())
      sent = co_await exchange.finish(*piece);
    else
      sent = co_await exchange.write(*piece);
  }
  if (sent.ok()) sent = co_await exchange.finish();
  transfer->guest->give_back_piece();
  co_return sent.ok();
}

}  // namespace cube::proxy
