#include "api/time_text.hpp"

#include <cube/core.hpp>

namespace cube::api {

using namespace std::chrono;

std::string exact_date_text(TimePoint time) {
  const auto second = floor<seconds>(time);
  return rfc3339({second.time_since_epoch().count(), nanoseconds(time - second).count()});
}

std::string date_text(TimePoint time) {
  constexpr std::size_t to_milliseconds = std::string_view("2026-01-02T03:04:05.678").size();
  return exact_date_text(time).substr(0, to_milliseconds) + "Z";
}

std::optional<TimePoint> parse_date(std::string_view text) {
  constexpr sys_seconds first = sys_days(1970y / 1 / 1), after_last = sys_days(2201y / 1 / 1);
  const auto time = parse_rfc3339(text);
  if (!time) return std::nullopt;
  const sys_seconds second{seconds(time->tv_sec)};
  if (second < first || second >= after_last) return std::nullopt;
  return TimePoint(second) + nanoseconds(time->tv_nsec);
}

}  // namespace cube::api
