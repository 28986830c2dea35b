// Taking turns: coroutines of one event loop wait for each other, in the order they came.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cstddef>
#include <deque>
#include <memory>
#include <utility>

namespace cube {

/// Lets `permits` coroutines go on at a time.
class AsyncSemaphore {
  struct State {
    asio::any_io_executor loop;
    std::size_t free;
    std::deque<std::shared_ptr<asio::steady_timer>> waiting;  // cancelled when it is their turn
  };

 public:
  AsyncSemaphore(asio::any_io_executor loop, std::size_t permits)
      : state_(std::make_shared<State>(State{std::move(loop), permits, {}})) {}

  /// Given back when it is destroyed.
  class Permit {
   public:
    explicit Permit(std::shared_ptr<State> state) : state_(std::move(state)) {}
    Permit(Permit&&) = default;
    Permit& operator=(Permit&&) = delete;
    ~Permit() {
      if (!state_) return;
      if (state_->waiting.empty()) {
        ++state_->free;
        return;
      }
      const auto next = state_->waiting.front();
      state_->waiting.pop_front();
      next->cancel();
    }

   private:
    std::shared_ptr<State> state_;
  };

  asio::awaitable<Permit> acquire() {
    const auto state = state_;
    if (state->free > 0) {
      --state->free;
    } else {
      const auto turn =
          std::make_shared<asio::steady_timer>(state->loop, asio::steady_timer::time_point::max());
      state->waiting.push_back(turn);
      asio::error_code ignored;
      co_await turn->async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    co_return Permit(state);
  }

 private:
  std::shared_ptr<State> state_;
};

/// One at a time.
class AsyncMutex {
 public:
  explicit AsyncMutex(asio::any_io_executor loop) : semaphore_(std::move(loop), 1) {}
  using Turn = AsyncSemaphore::Permit;
  asio::awaitable<Turn> lock() { return semaphore_.acquire(); }

 private:
  AsyncSemaphore semaphore_;
};

}  // namespace cube
