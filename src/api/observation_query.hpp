// The queries of the metrics and logs calls.
#pragma once

#include <cube/core.hpp>
#include <cube/node.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "api/time_text.hpp"

namespace cube::api {

/// `start` and `end` in Unix seconds, both included; left out they are the beginning and the end of time.
struct MetricsQuery {
  TimePoint first, last;
};
Result<MetricsQuery> parse_metrics_query(std::string_view query);

/// `sandbox_ids`: 1 to 100 ids with commas in between, each once in the result.
Result<std::vector<std::string>> parse_sandbox_ids(std::string_view query);

struct LogsQuery {
  TimePoint first, last;
  std::size_t limit = 1000;
  bool newest_first = false;
  LogLevel least = LogLevel::debug;
  std::string search;  ///< what the message must contain
};

/// `start` in Unix milliseconds, and `limit`.
Result<LogsQuery> parse_first_logs_query(std::string_view query);

/// `cursor` in Unix milliseconds: where the entries begin, in either `direction`; `limit`, `level`, `search`.
Result<LogsQuery> parse_logs_query(std::string_view query);

/// What the query asks for of entries that are in the order of their times.
std::vector<node::LogEntry> select_logs(std::vector<node::LogEntry> entries, const LogsQuery& query);

/// "debug", "info", "warn" or "error", as E2B spells them.
std::string_view level_name(LogLevel level);

}  // namespace cube::api
