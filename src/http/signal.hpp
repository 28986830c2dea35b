// Signal: an Event whose waiters can be resumed inside the notification.
//
// A coroutine that is woken by an Event has its turn after the loop has looked for new events (a system
// call); for a connection's input, once for every message, that is too much.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/execution_context.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

namespace cube::http {

class Signal {
 public:
  explicit Signal(asio::any_io_executor executor)
      : executor_(std::move(executor)),
        loop_(asio::use_service<Loop>(asio::query(executor_, asio::execution::context))) {
    loop_.signals.insert(this);
  }
  ~Signal() { loop_.signals.erase(this); }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  /// Any number of waiters.
  asio::awaitable<void> wait() {
    return asio::async_initiate<const asio::use_awaitable_t<>&, void()>(
        [this](Waiter waiter) { waiters_.add(std::move(waiter)); }, asio::use_awaitable);
  }

  /// Resumes the waiters within this call: only for callers that expect anything to happen in it, this
  /// object's end included.
  void wake_now() {
    waiters_.take().for_each([](Waiter& waiter) { waiter(); });
  }

  /// Resumes them in a later turn of the loop.
  void wake() {
    waiters_.take().for_each([&](Waiter& waiter) { asio::post(executor_, std::move(waiter)); });
  }

 private:
  using Waiter = asio::async_result<asio::use_awaitable_t<>, void()>::handler_type;

  /// Mostly one, which has its place here.
  class Waiters {
   public:
    void add(Waiter waiter) {
      if (!first_ && others_.empty())
        first_.emplace(std::move(waiter));
      else
        others_.push_back(std::move(waiter));
    }
    Waiters take() {  // handlers can be moved, not assigned
      Waiters taken(std::move(*this));
      first_.reset();
      others_.clear();
      return taken;
    }
    template <class Function>
    void for_each(Function function) {
      if (first_) function(*first_);
      for (Waiter& waiter : others_) function(waiter);
    }

   private:
    std::optional<Waiter> first_;
    std::vector<Waiter> others_;
  };

  /// A waiting coroutine usually holds the object this signal is part of, so that neither could end before
  /// the other. The loop ends them: what waits is its own, as it is with a timer.
  struct Loop : asio::execution_context::service {
    using key_type = Loop;
    inline static asio::execution_context::id id;
    explicit Loop(asio::execution_context& context) : service(context) {}
    void shutdown() override {
      std::vector<Waiter> ended;  // with them signals go
      for (Signal* signal : signals)
        signal->waiters_.take().for_each([&](Waiter& waiter) { ended.push_back(std::move(waiter)); });
    }
    std::unordered_set<Signal*> signals;
  };

  asio::any_io_executor executor_;
  Loop& loop_;
  Waiters waiters_;
};

}  // namespace cube::http
