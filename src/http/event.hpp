// Event: wakes coroutines of the same loop that wait for a condition to change.
//
// Waiters test their condition, wait, and test again; a notification without a waiter is lost, which is right
// because the condition was tested on the same thread just before.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

namespace cube::http {

using SteadyTime = std::chrono::steady_clock::time_point;

class Event {
 public:
  explicit Event(const asio::any_io_executor& executor) : timer_(executor, SteadyTime::max()) {}

  void notify() { timer_.cancel(); }

  /// Any number of waiters, if none of them has a deadline.
  asio::awaitable<void> wait() { return wait_until(SteadyTime::max()); }

  /// One waiter only: the deadline belongs to the timer.
  asio::awaitable<void> wait_until(SteadyTime deadline) {
    // Setting the expiry cancels other waits, so it is only touched when it has to change.
    if (timer_.expiry() != deadline) timer_.expires_at(deadline);
    asio::error_code ignored;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

 private:
  asio::steady_timer timer_;
};

}  // namespace cube::http
