// Watchdog: the end of somebody's patience, while nothing but the awaited thing itself would notice it.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>

namespace cube::http {

/// Does something when its time is up, unless it is destroyed before.
class Watchdog {
 public:
  Watchdog(const asio::any_io_executor& executor, std::chrono::milliseconds timeout,
           std::function<void()> bite)
      : timer_(executor, timeout) {
    timer_.async_wait([bite = std::move(bite), state = state_](const asio::error_code& cancelled) {
      // The handler may have been queued already when the watchdog went.
      if (cancelled || state->disarmed) return;
      state->expired = true;
      bite();
    });
  }
  ~Watchdog() { state_->disarmed = true; }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  bool expired() const { return state_->expired; }

 private:
  struct State {
    bool disarmed = false;
    bool expired = false;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  asio::steady_timer timer_;
};

}  // namespace cube::http
