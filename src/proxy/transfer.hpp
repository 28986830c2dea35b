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

namespace cube::proxy {

struct Transfer {
  explicit Transfer(const asio::any_io_executor& loop)
      : changed(loop, asio::steady_timer::time_point::max()) {}

  void client_left();

  std::optional<http::ClientConnection> guest;
  std::uint64_t incarnation = 0;  ///< of the sandbox `guest` leads into
  bool client_gone = false;
  bool body_malformed = false;  ///< the client's fault
  bool body_running = false;    ///< the coroutine of start_body
  asio::steady_timer changed;   ///< cancelled when one of the above becomes true, or the last false
};

/// Begins to carry the request's body to `transfer->guest`.
void start_body(http::Exchange& exchange, const std::shared_ptr<Transfer>& transfer);

asio::awaitable<void> body_ended(std::shared_ptr<Transfer> transfer);

/// Carries the response's body. False if either side broke: the response must not look complete then.
asio::awaitable<bool> carry_response_body(http::Exchange& exchange, std::shared_ptr<Transfer> transfer);

}  // namespace cube::proxy
