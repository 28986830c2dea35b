// The calls about what a sandbox uses and what happened to it.
#include "api/actions.hpp"
#include "api/observation_query.hpp"
#include "api/time_text.hpp"

namespace cube::api {
namespace {

/// SandboxMetric
void write_metric(JsonWriter& json, const node::Metric& metric) {
  const auto unix_time = std::chrono::floor<std::chrono::seconds>(metric.at.time_since_epoch());
  json.begin_object();
  json.key("timestamp").value(date_text(metric.at)).key("timestampUnix").value(unix_time.count());
  json.key("cpuCount").value(metric.cpu_count).key("cpuUsedPct").value(metric.cpu_used_percent);
  json.key("memUsed").value(metric.memory_used).key("memTotal").value(metric.memory_total);
  json.key("memCache").value(metric.memory_cache);
  json.key("diskUsed").value(metric.disk_used).key("diskTotal").value(metric.disk_total);
  json.end_object();
}

/// SandboxLogEntry
void write_entry(JsonWriter& json, const node::LogEntry& entry) {
  json.begin_object().key("timestamp").value(date_text(entry.at)).key("level").value(level_name(entry.level));
  json.key("message").value(entry.message).key("fields").begin_object();
  json.key("logger").value(entry.source);
  for (const auto& [name, value] : entry.fields)
    if (name != "logger") json.key(name).value(value);
  json.end_object().end_object();
}

/// SandboxLog: the same as a line of JSON, which is what E2B's CLI reads.
void write_line(JsonWriter& json, const node::LogEntry& entry) {
  JsonWriter line;
  line.begin_object().key("level").value(level_name(entry.level)).key("logger").value(entry.source);
  line.key("message").value(entry.message);
  for (const auto& [name, value] : entry.fields)
    if (name != "level" && name != "logger" && name != "message") line.key(name).value(value);
  line.end_object();
  json.begin_object().key("timestamp").value(date_text(entry.at)).key("line").value(line.text()).end_object();
}

void write_entries(JsonWriter& json, const std::vector<node::LogEntry>& entries) {
  json.begin_array();
  for (const node::LogEntry& entry : entries) write_entry(json, entry);
  json.end_array();
}

void write_logs_v1(JsonWriter& json, const std::vector<node::LogEntry>& entries) {
  json.key("logs").begin_array();
  for (const node::LogEntry& entry : entries) write_line(json, entry);
  json.end_array().key("logEntries");
  write_entries(json, entries);
}

void write_logs_v2(JsonWriter& json, const std::vector<node::LogEntry>& entries) {
  json.key("logs");
  write_entries(json, entries);
}

/// Both generations: they differ in what the query says and how the entries are written.
Answering answer_logs(const Context& context, Call& call, Result<LogsQuery> (*parse)(std::string_view),
                      void (*write)(JsonWriter&, const std::vector<node::LogEntry>&)) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto query = parse(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  auto logs = co_await context.sandboxes.logs(*id, query->first);
  if (!logs.ok()) co_return sandbox_problem(*id, logs.error());
  JsonWriter json;
  json.begin_object();
  write(json, select_logs(std::move(*logs), *query));
  json.end_object();
  co_return json_answer(200, json.take());
}

}  // namespace

Answering get_sandbox_metrics(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto query = parse_metrics_query(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  const auto metrics = co_await context.sandboxes.metrics(*id, query->first, query->last);
  if (!metrics.ok()) co_return sandbox_problem(*id, metrics.error());
  JsonWriter json;
  json.begin_array();
  for (const node::Metric& metric : *metrics) write_metric(json, metric);
  json.end_array();
  co_return json_answer(200, json.take());
}

Answering get_latest_metrics(const Context& context, Call& call) {
  auto ids = parse_sandbox_ids(call.exchange.request().query());
  if (!ids.ok()) co_return problem_of(ids.error());
  const auto latest = co_await context.sandboxes.latest_metrics(std::move(*ids));
  JsonWriter json;
  json.begin_object().key("sandboxes").begin_object();
  for (const auto& [id, metric] : latest) {
    json.key(id);
    write_metric(json, metric);
  }
  json.end_object().end_object();
  co_return json_answer(200, json.take());
}

Answering get_sandbox_logs_v1(const Context& context, Call& call) {
  return answer_logs(context, call, parse_first_logs_query, write_logs_v1);
}

Answering get_sandbox_logs_v2(const Context& context, Call& call) {
  return answer_logs(context, call, parse_logs_query, write_logs_v2);
}

}  // namespace cube::api
