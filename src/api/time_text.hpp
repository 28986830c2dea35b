// RFC 3339 dates, always UTC.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace cube::api {

using TimePoint = std::chrono::system_clock::time_point;

/// "2026-01-02T03:04:05.678Z"
std::string date_text(TimePoint time);

/// The same with nanoseconds, so that reading it back gives the same point in time.
std::string exact_date_text(TimePoint time);

/// With any fraction and any offset; nothing if malformed or outside the years 1970 to 2200.
std::optional<TimePoint> parse_date(std::string_view text);

}  // namespace cube::api
