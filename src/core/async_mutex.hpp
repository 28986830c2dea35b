// AsyncMutex: coroutines of one event loop take turns, in the order they came.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <deque>
#include <memory>
#include <utility>

namespace cube {

class AsyncMutex {
  struct State {
    asio::any_io_executor loop;
    bool held = false;
    std::deque<std::shared_ptr<asio::steady_timer>> waiting;  // cancelled when it is their turn
  };

 public:
  explicit AsyncMutex(asio::any_io_executor loop)
      : state_(std::make_shared<State>(State{std::move(loop), false, {}})) {}

  /// Holds the mutex until it is destroyed.
  class Turn {
   public:
    explicit Turn(std::shared_ptr<State> state) : state_(std::move(state)) {}
    Turn(Turn&&) = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (!state_) return;
      if (state_->waiting.empty()) {
        state_->held = false;
        return;
      }
      const auto next = state_->waiting.front();
      state_->waiting.pop_front();
      next->cancel();
    }

   private:
    std::shared_ptr<State> state_;
  };

  asio::awaitable<Turn> lock() {
    const auto state = state_;
    if (std::exchange(state->held, true)) {
      const auto turn =
          std::make_shared<asio::steady_timer>(state->loop, asio::steady_timer::time_point::max());
      state->waiting.push_back(turn);
      asio::error_code ignored;
      co_await turn->async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    co_return Turn(state);
  }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace cube
