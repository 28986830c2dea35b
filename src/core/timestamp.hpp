// Moments as RFC 3339 text, the way google.protobuf.Timestamp is written in JSON.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <string_view>

namespace cube {

/// "2026-01-02T03:04:05.123456789Z". Clamped to the years 1 to 9999, which is all the format has.
std::string rfc3339(const timespec& time);

/// With any fraction of a second and any offset; nothing if it is not a moment of those years.
std::optional<timespec> parse_rfc3339(std::string_view text);

}  // namespace cube
