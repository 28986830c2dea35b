// GET /metrics of the daemon's side: the machine's use, counted apart from what users ask of envd's /metrics,
// so that neither shortens the other's interval.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <optional>
#include <string>

#include "metrics.hpp"

namespace cube::agent {

class Usage {
 public:
  explicit Usage(asio::any_io_executor loop) : loop_(std::move(loop)) {}

  /// The processor's share is that since the call before, or of a tenth of a second if there was none for a
  /// minute: a clone would otherwise answer for its template.
  asio::awaitable<std::string> json();

 private:
  asio::any_io_executor loop_;
  CpuUsage cpu_;
  std::optional<std::chrono::steady_clock::time_point> last_;
};

}  // namespace cube::agent
