// Transfer: one request on its way into a sandbox and its response on the way back.
//
// Two coroutines share it: the handler's, which carries the response, and one that carries the request's
// body, for both flow at the same time. The second uses the exchange, so the first does not return before it
// has ended.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <cube/http.hpp>
#include <memory>
#include <optional>
#include <string>

namespace cube::proxy {

struct Transfer {
  explicit Transfer(const asio::any_io_executor& loop)
      : changed(loop, asio::steady_timer::time_point::max()) {}

  void client_left();

  std::string first_piece;    ///< of the request's body, on its way with the head
  bool body_follows = false;  ///< more of it than that
  std::optional<http::ClientConnection> guest;
  std::uint64_t incarnation = 0;  ///< of the sandbox `guest` leads into
  bool client_gone = false;
  std::optional<Error> body_fault;  ///< what the client did wrong with its body
  bool body_running = false;        ///< the coroutine of start_body
  asio::steady_timer changed;       ///< cancelled when one of the above becomes true, or the last false
};

/// Waits for the first piece of a body whose length is announced, so that it need not go into the sandbox by
/// itself: clients send it right behind the head. False if it does not come.
asio::awaitable<bool> receive_first_piece(http::Exchange& exchange, std::shared_ptr<Transfer> transfer,
                                          std::uint64_t length);

/// Begins to carry what follows of the request's body to `transfer->guest`.
void start_body(http::Exchange& exchange, const std::shared_ptr<Transfer>& transfer);

asio::awaitable<void> body_ended(std::shared_ptr<Transfer> transfer);

/// Carries a response whose head came. False if either side broke: it must not look complete then.
asio::awaitable<bool> carry_response(http::Exchange& exchange, std::shared_ptr<Transfer> transfer,
                                     http::ResponseHead head);

}  // namespace cube::proxy
