#include "usage.hpp"

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

namespace cube::agent {
namespace {

constexpr std::chrono::seconds longest_interval{60};
constexpr std::chrono::milliseconds first_interval{100};

}  // namespace

asio::awaitable<std::string> Usage::json() {
  if (!last_ || std::chrono::steady_clock::now() - *last_ > longest_interval) {
    metrics_json(cpu_);  // from here on
    asio::steady_timer pause(loop_, first_interval);
    asio::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  last_ = std::chrono::steady_clock::now();
  co_return metrics_json(cpu_);
}

}  // namespace cube::agent
