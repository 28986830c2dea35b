// Signal: an Event whose waiters can be resumed inside the notification.
//
// A coroutine that is woken by an Event has its turn after the loop has looked for new events (a system
// call); for a connection's input, once for every message, that is too much.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <memory>
#include <utility>
#include <vector>

namespace cube::http {

class Signal {
 public:
  explicit Signal(asio::any_io_executor executor) : executor_(std::move(executor)) {}

  /// Any number of waiters.
  asio::awaitable<void> wait() {
    return asio::async_initiate<const asio::use_awaitable_t<>&, void()>(
        [this](Waiter waiter) { waiters_.push_back(std::move(waiter)); }, asio::use_awaitable);
  }

  /// Resumes the waiters within this call: only for callers that expect anything to happen in it, this
  /// object's end included.
  void wake_now() {
    for (Waiter& waiter : std::exchange(waiters_, {})) waiter();
  }

  /// Resumes them in a later turn of the loop.
  void wake() {
    for (Waiter& waiter : std::exchange(waiters_, {})) asio::post(executor_, std::move(waiter));
  }

 private:
  using Waiter = asio::async_result<asio::use_awaitable_t<>, void()>::handler_type;

  asio::any_io_executor executor_;
  std::vector<Waiter> waiters_;
};

}  // namespace cube::http
