#include "log_reader.hpp"

#include <algorithm>
#include <cctype>

#include "human.hpp"

namespace cube::cubectl {

int log_rank(std::string_view level) {
  std::string name(level);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name == "debug" || name == "trace") return 0;
  if (name == "warn" || name == "warning") return 2;
  if (name == "error" || name == "fatal" || name == "critical") return 3;
  return 1;
}

std::vector<LogEntry> LogReader::take(JsonValue answer) {
  std::vector<LogEntry> fresh;
  std::multiset<std::string> again = seen_;  // what the last answer had of this millisecond
  for (const JsonValue item : json_array(answer, "logEntries")) {
    LogEntry entry{json_string(item, "timestamp"), json_string(item, "level"), json_string(item, "message"),
                   simdjson::minify(item)};
    const std::int64_t time = parse_date(entry.timestamp).value_or(start_);
    if (time < start_) continue;
    if (time > start_) {
      start_ = time;
      seen_.clear();
      again.clear();
    }
    if (const auto known = again.find(entry.json); known != again.end()) {
      again.erase(known);
      continue;
    }
    seen_.insert(entry.json);
    fresh.push_back(std::move(entry));
  }
  return fresh;
}

}  // namespace cube::cubectl
