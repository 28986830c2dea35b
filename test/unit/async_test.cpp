// Coroutines that take turns, that run side by side, and that wait for a worker.
#include "core/async.hpp"

#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <map>
#include <thread>

#include "core/async_semaphore.hpp"
#include "event_loop.hpp"

using namespace cube;
using namespace cube::test;
using asio::awaitable;

namespace {

/// Gives everything else that is ready a chance to run.
awaitable<void> yield() { co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable); }

/// Coroutines that hold a mutex one after another, and what they did.
struct Turns {
  asio::io_context loop;
  AsyncMutex mutex{loop.get_executor()};
  std::vector<int> order;
  int inside = 0;
  int most_inside = 0;
  int ended = 0;

  awaitable<void> work(int number, int steps) {
    const auto turn = co_await mutex.lock();
    most_inside = std::max(most_inside, ++inside);
    for (int step = 0; step < steps; ++step) co_await yield();
    order.push_back(number);
    --inside;
    if (number < 0) throw TestError("as the test wants");
  }
  void spawn(int number, int steps) {
    asio::co_spawn(loop, work(number, steps), [this](std::exception_ptr) { ++ended; });
  }
  void run_until_ended(int count) {
    run(loop, [&] { return eventually([&] { return ended == count; }); });
  }
};

}  // namespace

TEST_CASE("coroutines hold a mutex one at a time, in the order they came") {
  Turns turns;
  for (int number = 0; number < 20; ++number) turns.spawn(number, number % 3);
  turns.run_until_ended(20);
  CHECK(turns.most_inside == 1);
  CHECK(turns.order.size() == 20);
  CHECK(std::ranges::is_sorted(turns.order));
}

TEST_CASE("whoever comes when a mutex is handed over queues behind those who waited") {
  Turns turns;
  turns.spawn(1, 2);
  turns.spawn(2, 2);
  run(turns.loop, [&]() -> awaitable<void> {
    while (turns.order.empty()) co_await yield();
    turns.spawn(3, 0);  // the first has just let go, or is about to
  });
  turns.run_until_ended(3);
  CHECK(turns.order == std::vector<int>{1, 2, 3});
  CHECK(turns.most_inside == 1);
}

TEST_CASE("a mutex is free again when its holder ends, by an exception too") {
  Turns turns;
  turns.spawn(-1, 1);
  turns.spawn(-2, 1);
  turns.spawn(3, 1);
  turns.run_until_ended(3);
  CHECK(turns.order == std::vector<int>{-1, -2, 3});
  turns.spawn(4, 0);
  turns.run_until_ended(4);
}

TEST_CASE("a turn that is moved holds the mutex once, and may outlive it") {
  asio::io_context loop;
  auto mutex = std::make_unique<AsyncMutex>(loop.get_executor());
  bool second = false;
  run(loop, [&]() -> awaitable<void> {
    std::optional<AsyncMutex::Turn> kept;
    {
      auto turn = co_await mutex->lock();
      kept.emplace(std::move(turn));
    }  // the empty one is destroyed here
    const auto wait = [&]() -> awaitable<void> {
      const auto turn = co_await mutex->lock();
      second = true;
    };
    asio::co_spawn(loop, wait(), asio::detached);
    for (int step = 0; step < 5; ++step) co_await yield();
    if (second) throw TestError("two hold it");
    kept.reset();
    co_await eventually([&] { return second; });
    kept.emplace(co_await mutex->lock());
    mutex.reset();
  });
  CHECK(second);
}

TEST_CASE("work side by side is all done, never more of it at a time than the limit") {
  const auto [count, limit] =
      GENERATE(table<std::size_t, std::size_t>({{0, 4}, {1, 4}, {3, 8}, {17, 4}, {9, 1}, {8, 8}}));
  asio::io_context loop;
  std::map<std::size_t, int> calls;
  std::size_t running = 0, most = 0;
  bool returned_early = false;
  run(loop, [&]() -> awaitable<void> {
    const auto work = [&](std::size_t index) -> awaitable<void> {
      most = std::max(most, ++running);
      // Those that start later end earlier.
      for (std::size_t step = index; step < count; ++step) co_await yield();
      ++calls[index];
      --running;
    };
    co_await for_each_concurrently(count, limit, work);
    returned_early = running > 0 || calls.size() != count;
  });
  CHECK_FALSE(returned_early);
  CHECK(calls.size() == count);
  for (const auto& [index, times] : calls) CHECK((index < count && times == 1));
  CHECK(most == std::min(count, limit));
}

TEST_CASE("work side by side that does not wait at all is done as well") {
  asio::io_context loop;
  std::vector<std::size_t> order;
  run(loop, [&]() -> awaitable<void> {
    const auto work = [&](std::size_t index) -> awaitable<void> {
      order.push_back(index);
      co_return;
    };
    co_await for_each_concurrently(5, 2, work);
  });
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3, 4});
}

TEST_CASE("blocking work runs on a worker, and its caller goes on where it was") {
  asio::io_context loop;
  asio::thread_pool workers(2);
  const auto here = std::this_thread::get_id();
  std::thread::id there, after;
  std::optional<Result<int>> outcome;
  run(loop, [&]() -> awaitable<void> {
    outcome = co_await run_on(workers.get_executor(), [&]() -> Result<int> {
      there = std::this_thread::get_id();
      return make_error(ErrorCode::conflict, "no");
    });
    after = std::this_thread::get_id();
  });
  CHECK(there != here);
  CHECK(after == here);
  CHECK(outcome->error().code == ErrorCode::conflict);
}
