#include "api/observation_query.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "api/query_parameters.hpp"

namespace cube::api {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::int64_t last_second = 7'258'118'400;  // the year 2200, where our dates end
constexpr std::int64_t most_logs = 1000;
constexpr std::int64_t largest_int32 = 2'147'483'647;
constexpr std::size_t most_ids = 100;
constexpr std::size_t longest_search = 256;

TimePoint end_of_time() { return TimePoint(seconds(last_second)); }

constexpr std::array levels = {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error};

Result<void> read_seconds(std::string_view name, std::string_view text, TimePoint& time) {
  std::int64_t number = 0;
  CUBE_TRY(read_number(name, text, {0, last_second}, number));
  time = TimePoint(seconds(number));
  return {};
}

Result<void> read_milliseconds(std::string_view name, std::string_view text, TimePoint& time) {
  std::int64_t number = 0;
  CUBE_TRY(read_number(name, text, {0, 1000 * last_second}, number));
  time = TimePoint(milliseconds(number));
  return {};
}

Result<void> read_limit(std::string_view text, std::int64_t most, std::size_t& limit) {
  std::int64_t number = 0;
  CUBE_TRY(read_number("limit", text, {0, most}, number));
  limit = static_cast<std::size_t>(number);
  return {};
}

Result<void> read_level(std::string_view text, LogLevel& least) {
  const auto found = std::ranges::find(levels, text, level_name);
  if (found == levels.end()) return parameter_error("level", "must be debug, info, warn or error");
  least = *found;
  return {};
}

Result<void> read_direction(std::string_view text, bool& newest_first) {
  if (text != "forward" && text != "backward")
    return parameter_error("direction", "must be forward or backward");
  newest_first = text == "backward";
  return {};
}

Result<void> read_search(std::string_view text, std::string& search) {
  if (text.size() > longest_search)
    return parameter_error("search", "must not be longer than " + std::to_string(longest_search) + " bytes");
  search = text;
  return {};
}

// A cursor within a millisecond means all of it.
void begin_at(LogsQuery& query, TimePoint cursor) {
  if (query.newest_first)
    query.last = cursor + milliseconds(1) - TimePoint::duration(1);
  else
    query.first = cursor;
}

}  // namespace

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warn";
    case LogLevel::error: return "error";
  }
  return "info";
}

Result<MetricsQuery> parse_metrics_query(std::string_view text) {
  const auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  MetricsQuery query{TimePoint{}, end_of_time()};
  for (const auto& [name, value] : *parameters) {
    if (name == "start") CUBE_TRY(read_seconds(name, value, query.first));
    if (name == "end") CUBE_TRY(read_seconds(name, value, query.last));
  }
  if (query.first > query.last) return parameter_error("start", "must not be later than end");
  return query;
}

Result<std::vector<std::string>> parse_sandbox_ids(std::string_view text) {
  const auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  const auto found = parameters->find("sandbox_ids");
  if (found == parameters->end() || found->second.empty())
    return parameter_error("sandbox_ids", "is required: the ids of 1 to 100 sandboxes, separated by commas");
  std::set<std::string> ids;
  std::size_t count = 0;
  for (std::string_view rest = found->second; !rest.empty();) {
    std::string_view item = take_until(rest, ',');
    const std::string_view id = take_until(item, '-');  // what old SDKs join to it says nothing
    if (id.empty() || !is_lowercase(id))
      return parameter_error("sandbox_ids", "has '" + std::string(id.substr(0, 100)) + "', which is no id");
    if (++count > most_ids)
      return parameter_error("sandbox_ids", "must not have more than " + std::to_string(most_ids) + " ids");
    ids.emplace(id);
  }
  return std::vector<std::string>(ids.begin(), ids.end());
}

Result<LogsQuery> parse_first_logs_query(std::string_view text) {
  const auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  LogsQuery query;
  query.last = end_of_time();
  for (const auto& [name, value] : *parameters) {
    if (value.empty()) continue;
    if (name == "start") CUBE_TRY(read_milliseconds(name, value, query.first));
    if (name == "limit") CUBE_TRY(read_limit(value, largest_int32, query.limit));
  }
  return query;
}

Result<LogsQuery> parse_logs_query(std::string_view text) {
  const auto parameters = read_parameters(text);
  if (!parameters.ok()) return parameters.error();
  LogsQuery query;
  query.last = end_of_time();
  std::optional<TimePoint> cursor;
  for (const auto& [name, value] : *parameters) {
    if (value.empty()) continue;
    if (name == "cursor") CUBE_TRY(read_milliseconds(name, value, cursor.emplace()));
    if (name == "limit") CUBE_TRY(read_limit(value, most_logs, query.limit));
    if (name == "direction") CUBE_TRY(read_direction(value, query.newest_first));
    if (name == "level") CUBE_TRY(read_level(value, query.least));
    if (name == "search") CUBE_TRY(read_search(value, query.search));
  }
  if (cursor) begin_at(query, *cursor);
  return query;
}

std::vector<node::LogEntry> select_logs(std::vector<node::LogEntry> entries, const LogsQuery& query) {
  std::erase_if(entries, [&](const node::LogEntry& entry) {
    return entry.at < query.first || entry.at > query.last || entry.level < query.least ||
           entry.message.find(query.search) == std::string::npos;
  });
  if (query.newest_first) std::ranges::reverse(entries);
  if (entries.size() > query.limit) entries.resize(query.limit);
  return entries;
}

}  // namespace cube::api
