// What people read: times as distances, sizes with units, and text that cannot command the terminal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cube::cubectl {

/// Milliseconds since 1970 of an RFC 3339 date; nothing if it is none.
std::optional<std::int64_t> parse_date(std::string_view text);

std::int64_t now_milliseconds();

/// "just now", "42 s ago", "3 min ago", "5 h ago", "2 days ago"; "in 3 min" for what is to come.
std::string time_distance(std::int64_t milliseconds, std::int64_t now);

/// The distance of a date as the API writes it; the text itself if it is none.
std::string date_distance(std::string_view date, std::int64_t now);

/// "512 B", "1.5 KiB", "50.0 MiB"
std::string byte_size(std::uint64_t bytes);

/// Without control characters, which a sandbox's owner could have put there to command the reader's terminal.
std::string printable(std::string_view text);

/// Columns of a terminal that UTF-8 text takes, one a character.
std::size_t display_width(std::string_view text);

/// The first `width` characters, the last of them "…" if something was cut off.
std::string cut_to_width(std::string_view text, std::size_t width);

}  // namespace cube::cubectl
