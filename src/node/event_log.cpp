#include "node/event_log.hpp"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <iterator>

namespace cube::node {
namespace {

using Clock = std::chrono::system_clock;

constexpr std::size_t most_entries = 8192;
constexpr std::size_t most_fields = 16;
constexpr std::int64_t latest_unix_ns = 7'258'118'400'000'000'000;  // the year 2200

LogLevel level_of(std::string_view name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "warn") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  return LogLevel::info;
}

bool read_entry(simdjson::dom::object object, LogEntry& entry) {
  std::string_view time, level, message;
  simdjson::dom::object fields;
  std::int64_t unix_ns = 0;
  if (object.at_key("unixTimeNs").get(time) || object.at_key("level").get(level) ||
      object.at_key("message").get(message) || object.at_key("fields").get(fields))
    return false;
  if (std::from_chars(time.data(), time.data() + time.size(), unix_ns).ec != std::errc{}) return false;
  unix_ns = std::clamp<std::int64_t>(unix_ns, 0, latest_unix_ns);
  entry.at =
      Clock::time_point(std::chrono::duration_cast<Clock::duration>(std::chrono::nanoseconds(unix_ns)));
  entry.level = level_of(level);
  entry.source = "cube-agent";
  entry.message = message;
  for (const auto& [name, value] : fields) {
    std::string_view text;
    if (entry.fields.size() == most_fields || value.get(text)) return false;
    entry.fields.emplace(name, text);
  }
  return true;
}

}  // namespace

void EventLog::add(LogLevel level, std::string message, Fields fields) {
  if (entries_.size() == capacity) entries_.erase(entries_.begin());
  entries_.push_back({Clock::now(), level, "cubed", std::move(message), std::move(fields)});
}

void EventLog::add_or_replace(std::string message, Fields fields) {
  if (!entries_.empty() && entries_.back().message == message) entries_.pop_back();
  add(LogLevel::info, std::move(message), std::move(fields));
}

Result<std::vector<LogEntry>> parse_journal(std::string_view json) {
  simdjson::dom::parser parser;
  simdjson::dom::array array;
  if (parser.parse(json.data(), json.size()).at_key("entries").get(array) != simdjson::SUCCESS)
    return make_error(ErrorCode::guest, "the guest's answer to GET /journal makes no sense");
  std::vector<LogEntry> entries;
  for (const auto element : array) {
    simdjson::dom::object object;
    LogEntry entry;
    if (entries.size() == most_entries) break;
    if (element.get(object) == simdjson::SUCCESS && read_entry(object, entry))
      entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<LogEntry> merge_logs(std::vector<LogEntry> host, std::vector<LogEntry> guest,
                                 Clock::time_point first) {
  std::ranges::move(guest, std::back_inserter(host));
  std::erase_if(host, [&](const LogEntry& entry) { return entry.at < first; });
  std::ranges::stable_sort(host, {}, &LogEntry::at);
  return host;
}

}  // namespace cube::node
