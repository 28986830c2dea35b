// Moving work between the event loop and the workers.
#pragma once

#include <algorithm>
#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <optional>
#include <type_traits>
#include <utility>

namespace cube {

/// What is known already, for whoever would have waited for it.
template <class Outcome>
asio::awaitable<Outcome> ready(Outcome outcome) {
  co_return outcome;
}
inline asio::awaitable<void> ready() { co_return; }

/// Runs a blocking function on `workers`; the calling coroutine goes on, on its own executor, with the
/// result. What `work` refers to must live until then.
template <class Work>
asio::awaitable<std::invoke_result_t<Work&>> run_on(asio::any_io_executor workers, Work work) {
  using Outcome = std::invoke_result_t<Work&>;
  // In an optional, because Asio makes an empty result on the way of an exception.
  struct Job {
    static asio::awaitable<std::optional<Outcome>> run(Work work) { co_return work(); }
  };
  auto outcome = co_await asio::co_spawn(workers, Job::run(std::move(work)), asio::use_awaitable);
  co_return std::move(*outcome);
}

/// Awaits `work(0)` … `work(count - 1)`, at most `limit` of them at a time.
template <class Work>
asio::awaitable<void> for_each_concurrently(std::size_t count, std::size_t limit, Work work) {
  struct Progress {
    asio::steady_timer finished;
    std::size_t next = 0;
    std::size_t running = 0;
  };
  const auto loop = co_await asio::this_coro::executor;
  Progress progress{asio::steady_timer(loop, asio::steady_timer::time_point::max())};
  struct Lane {
    static asio::awaitable<void> run(Progress& progress, std::size_t count, Work& work) {
      while (progress.next < count) co_await work(progress.next++);
    }
  };
  for (progress.running = 0; progress.running < std::min(count, limit);) {
    ++progress.running;
    asio::co_spawn(loop, Lane::run(progress, count, work), [&progress](std::exception_ptr) {
      if (--progress.running == 0) progress.finished.cancel();
    });
  }
  asio::error_code ignored;
  if (progress.running > 0)
    co_await progress.finished.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

}  // namespace cube
