#include "node/metrics.hpp"

#include <simdjson.h>

#include <algorithm>
#include <cmath>

namespace cube::node {
namespace {

/// What JSON numbers hold exactly: no guest has more of anything.
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 53;

bool read(simdjson::dom::object object, std::string_view key, std::uint64_t& bytes) {
  return object.at_key(key).get(bytes) == simdjson::SUCCESS && bytes <= most_bytes;
}

}  // namespace

Result<Metric> parse_metric(std::string_view json) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  Metric metric;
  const bool complete =
      parser.parse(json.data(), json.size()).get(object) == simdjson::SUCCESS &&
      object.at_key("cpu_used_pct").get(metric.cpu_used_percent) == simdjson::SUCCESS &&
      read(object, "mem_used", metric.memory_used) && read(object, "mem_total", metric.memory_total) &&
      read(object, "mem_cache", metric.memory_cache) && read(object, "disk_used", metric.disk_used) &&
      read(object, "disk_total", metric.disk_total);
  if (!complete) return make_error(ErrorCode::guest, "the guest's answer to GET /metrics makes no sense");
  metric.cpu_used_percent = std::clamp(metric.cpu_used_percent, 0.0, 100.0);
  return metric;
}

bool MetricHistory::take_turn(Moment now) {
  if (last_turn_ && now - *last_turn_ < sample_interval) return false;
  last_turn_ = now;
  return true;
}

void MetricHistory::add(const Metric& metric) {
  if (samples_.size() == capacity) samples_.erase(samples_.begin());
  samples_.push_back(metric);
}

std::vector<Metric> MetricHistory::between(std::chrono::system_clock::time_point first,
                                           std::chrono::system_clock::time_point last) const {
  const auto second = [](auto time) { return std::chrono::floor<std::chrono::seconds>(time); };
  std::vector<Metric> found;
  for (const Metric& metric : samples_)
    if (second(metric.at) >= second(first) && second(metric.at) <= second(last)) found.push_back(metric);
  // The host's clock may have been set meanwhile.
  std::ranges::stable_sort(found, {}, &Metric::at);
  return found;
}

std::optional<Metric> MetricHistory::last() const {
  if (samples_.empty()) return std::nullopt;
  return samples_.back();
}

}  // namespace cube::node
