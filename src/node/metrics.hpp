// What a sandbox uses, as its guest counts it, and the few samples that are kept of it.
//
// Nobody polls: a sample is taken when somebody asks for the present and the last one is older than
// `sample_interval`. So an idle clone sleeps on, and the past of one nobody asked about is empty.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <optional>
#include <string_view>
#include <vector>

namespace cube::node {

struct Metric {
  std::chrono::system_clock::time_point at;  ///< by the host's clock
  std::uint32_t cpu_count = 0;
  double cpu_used_percent = 0;  ///< of all processors together, 0 to 100
  std::uint64_t memory_used = 0, memory_total = 0, memory_cache = 0;  ///< bytes
  std::uint64_t disk_used = 0, disk_total = 0;                        ///< bytes of the root file system
};

/// The agent's answer to GET /metrics. `guest` if it makes no sense; `at` and `cpu_count` are the caller's.
Result<Metric> parse_metric(std::string_view json);

class MetricHistory {
 public:
  static constexpr std::size_t capacity = 240;  ///< twenty minutes of somebody who looks on
  static constexpr std::chrono::seconds sample_interval{5};

  using Moment = std::chrono::steady_clock::time_point;

  /// Whether a sample is due; if so the next one is not until the interval has passed, whatever becomes of
  /// this one.
  bool take_turn(Moment now);

  /// The oldest one gives way.
  void add(const Metric& metric);

  /// Those of these seconds, both included, oldest first.
  std::vector<Metric> between(std::chrono::system_clock::time_point first,
                              std::chrono::system_clock::time_point last) const;
  std::optional<Metric> last() const;

 private:
  std::vector<Metric> samples_;
  std::optional<Moment> last_turn_;
};

}  // namespace cube::node
