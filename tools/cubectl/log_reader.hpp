// Logs that come by asking again and again, each line once.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "json.hpp"

namespace cube::cubectl {

struct LogEntry {
  std::string timestamp, level, message;
  std::string json;  ///< as it came
};

class LogReader {
 public:
  /// Milliseconds to ask from: what was read last is asked for again, because more may have been written in
  /// it.
  std::int64_t start() const { return start_; }

  /// The entries of an answer of GET /sandboxes/{id}/logs that are new, oldest first.
  std::vector<LogEntry> take(JsonValue answer);

 private:
  std::int64_t start_ = 0;
  std::multiset<std::string> seen_;  ///< the entries of the millisecond `start_`
};

/// 0 for "debug" to 3 for "error"; anything else counts as "info".
int log_rank(std::string_view level);

}  // namespace cube::cubectl
