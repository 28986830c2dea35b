// Durations and what is said of them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace cube::bench {

using Clock = std::chrono::steady_clock;

inline double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  void fail() { ++failures_; }
  std::size_t count() const { return values_.size(); }
  std::size_t failures() const { return failures_; }

  /// The value below which `share` of the samples lie (nearest rank); 0 without samples.
  double percentile(double share) const {
    if (values_.empty()) return 0;
    std::vector<double> sorted = values_;
    std::ranges::sort(sorted);
    const auto rank = static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5);
    return sorted[std::min(rank, sorted.size() - 1)];
  }

 private:
  std::vector<double> values_;
  std::size_t failures_ = 0;
};

}  // namespace cube::bench
