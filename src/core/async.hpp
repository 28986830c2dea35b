// Moving work between the event loop and the workers.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#include <optional>
#include <type_traits>
#include <utility>

namespace cube {

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

}  // namespace cube
