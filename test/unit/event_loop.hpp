// What tests of coroutines share: a loop that runs until the test has ended, and a client of raw bytes.
#pragma once

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <catch2/catch.hpp>
#include <cube/http.hpp>
#include <stdexcept>

namespace cube::test {

struct TestError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class T>
T must(Result<T> result) {
  if (!result.ok()) throw TestError(result.error().describe());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Runs the loop until `test` returns. A condition that never comes fails the test instead of hanging it.
template <class Test>
void run(asio::io_context& loop, Test&& test) {
  bool done = false;
  std::exception_ptr failure;
  asio::co_spawn(loop, test(), [&](std::exception_ptr error) {
    failure = error;
    done = true;
  });
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  loop.restart();
  while (!done && std::chrono::steady_clock::now() < deadline) loop.run_one_for(std::chrono::seconds(1));
  if (!done) FAIL("the test did not end");
  if (failure) std::rethrow_exception(failure);
}

/// Lets everything else happen until `condition` holds.
template <class Condition>
asio::awaitable<void> eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) throw TestError("the condition never came");
    timer.expires_after(std::chrono::milliseconds(1));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

class RawClient {
 public:
  static asio::awaitable<RawClient> connect(std::uint16_t port) {
    auto stream = co_await http::connect_tcp("127.0.0.1", port, std::chrono::seconds(10));
    co_return RawClient(must(std::move(stream)));
  }

  asio::awaitable<void> send(std::string text) {
    auto sent = co_await stream_->write(asio::buffer(text));
    must(std::move(sent));
  }

  /// Up to and with `mark`, or what came before the end of the stream.
  asio::awaitable<std::string> read_until(std::string mark) {
    while (received_.find(mark) == std::string::npos) {
      const bool more = co_await receive();
      if (!more) co_return std::exchange(received_, {});
    }
    const std::size_t end = received_.find(mark) + mark.size();
    std::string text = received_.substr(0, end);
    received_.erase(0, end);
    co_return text;
  }

  asio::awaitable<std::string> read_to_end() {
    for (;;) {
      const bool more = co_await receive();
      if (!more) co_return std::exchange(received_, {});
    }
  }

  void half_close() { stream_->shutdown_write(); }
  void close() { stream_->close(); }

 private:
  explicit RawClient(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  asio::awaitable<bool> receive() {
    char buffer[4096];
    auto count = co_await stream_->read_some(asio::buffer(buffer));
    if (!count.ok() || *count == 0) co_return false;
    received_.append(buffer, *count);
    co_return true;
  }

  std::unique_ptr<Stream> stream_;
  std::string received_;
};

}  // namespace cube::test
