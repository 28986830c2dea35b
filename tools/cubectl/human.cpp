#include "human.hpp"

#include <array>
#include <chrono>
#include <cstdio>
#include <cube/core.hpp>

namespace cube::cubectl {
namespace {

constexpr std::string_view ellipsis = "…";

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

std::string amount_of_time(std::int64_t seconds) {
  if (seconds < 60) return std::to_string(seconds) + " s";
  if (seconds < 3600) return std::to_string(seconds / 60) + " min";
  if (seconds < 48 * 3600) return std::to_string(seconds / 3600) + " h";
  return std::to_string(seconds / 86400) + " days";
}

}  // namespace

std::optional<std::int64_t> parse_date(std::string_view text) {
  const auto time = parse_rfc3339(text);
  if (!time) return std::nullopt;
  return std::int64_t{time->tv_sec} * 1000 + time->tv_nsec / 1'000'000;
}

std::int64_t now_milliseconds() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

std::string time_distance(std::int64_t milliseconds, std::int64_t now) {
  const std::int64_t seconds = (now - milliseconds) / 1000;
  if (seconds == 0) return "just now";
  return seconds > 0 ? amount_of_time(seconds) + " ago" : "in " + amount_of_time(-seconds);
}

std::string date_distance(std::string_view date, std::int64_t now) {
  const auto time = parse_date(date);
  return time ? time_distance(*time, now) : printable(date);
}

std::string byte_size(std::uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double size = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; size >= 1024 && unit + 1 < units.size(); ++unit) size /= 1024;
  std::array<char, 32> text;
  const int length = std::snprintf(text.data(), text.size(), "%.1f %s", size, units[unit]);
  return std::string(text.data(), static_cast<std::size_t>(length));
}

std::string printable(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {  // C1 controls, U+0080 to U+009F
      result += '?';
      ++i;
    } else {
      result += byte < 0x20 || byte == 0x7f ? '?' : text[i];
    }
  }
  return result;
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += continues_character(c) ? 0 : 1;
  return width;
}

std::string cut_to_width(std::string_view text, std::size_t width) {
  if (display_width(text) <= width) return std::string(text);
  if (width == 0) return {};
  std::size_t end = 0, characters = 0;
  for (; end < text.size(); ++end) {
    if (continues_character(text[end])) continue;
    if (characters == width - 1) break;
    ++characters;
  }
  return std::string(text.substr(0, end)) + std::string(ellipsis);
}

}  // namespace cube::cubectl
