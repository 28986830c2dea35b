#include "journal.hpp"

#include <ctime>
#include <cube/core.hpp>

namespace cube::agent {
namespace {

constexpr std::size_t longest_value = 1024;

/// What the entry costs beside its text.
constexpr std::size_t overhead = 64;

std::int64_t unix_time_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string shortened(std::string_view text) {
  if (text.size() <= longest_value) return std::string(text);
  std::size_t end = longest_value;
  // Not within a character of UTF-8.
  while (end > longest_value - 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "…";
}

}  // namespace

void Journal::add(std::string_view level, std::string_view message, const Fields& fields) {
  const std::int64_t now = unix_time_ns();
  JsonWriter json;
  json.begin_object().key("unixTimeNs").value(std::to_string(now)).key("level").value(level);
  json.key("message").value(shortened(message)).key("fields").begin_object();
  for (const auto& [name, value] : fields)
    if (!value.empty()) json.key(name).value(shortened(value));
  json.end_object().end_object();
  entries_.push_back({now, json.take()});
  bytes_ += entries_.back().json.size() + overhead;
  while (bytes_ > capacity_ && !entries_.empty()) {
    bytes_ -= entries_.front().json.size() + overhead;
    entries_.pop_front();
  }
}

std::string Journal::json(std::int64_t since_unix_ns) const {
  JsonWriter json;
  json.begin_object().key("entries").begin_array();
  for (const Entry& entry : entries_)
    if (entry.unix_time_ns >= since_unix_ns) json.raw(entry.json);
  json.end_array().end_object();
  return json.take();
}

}  // namespace cube::agent
