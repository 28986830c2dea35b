// cubectl sandbox logs and metrics: what a sandbox says and uses, once or as it goes.
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <cstdio>

#include "command_line.hpp"
#include "human.hpp"
#include "log_reader.hpp"
#include "table.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::chrono::seconds log_interval{1};
constexpr std::chrono::seconds metrics_interval{5};
constexpr std::size_t log_page = 1000;

struct LogOptions {
  std::string id, level = "info";
  bool follow = false;
};
struct MetricsOptions {
  std::string id;
  bool follow = false;
};

awaitable<void> wait(std::chrono::seconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

void print_entry(const Session& session, const LogEntry& entry) {
  if (session.json) return print_json(entry.json);
  std::printf("%s %-5s %s\n", printable(entry.timestamp).c_str(), printable(entry.level).c_str(),
              printable(entry.message).c_str());
  std::fflush(stdout);
}

/// One page; how many entries it had.
awaitable<Result<std::size_t>> read_logs(Session& session, const LogOptions& options, LogReader& reader) {
  const auto answer = co_await session.client.request(
      "GET", "/sandboxes/" + url_encode(options.id) + "/logs?start=" + std::to_string(reader.start()) +
                 "&limit=" + std::to_string(log_page));
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  for (const LogEntry& entry : reader.take(document->root()))
    if (log_rank(entry.level) >= log_rank(options.level)) print_entry(session, entry);
  co_return json_array(document->root(), "logEntries").size();
}

/// The sandbox has ended, after it was there.
bool is_end(const Error& error, bool was_there) { return was_there && error.code == ErrorCode::not_found; }

awaitable<Outcome> logs(Session& session, const LogOptions& options) {
  LogReader reader;
  for (bool was_there = false;; was_there = true) {
    const std::int64_t before = reader.start();
    const auto count = co_await read_logs(session, options, reader);
    if (!count.ok() && options.follow && is_end(count.error(), was_there)) co_return 0;
    if (!count.ok()) co_return count.error();
    if (*count >= log_page && reader.start() > before) continue;
    if (!options.follow) co_return 0;
    co_await wait(log_interval);
  }
}

std::vector<Table::Column> metrics_columns() {
  using enum Table::Align;
  return {{"TIME", left},    {"CPU", right},   {"CPUS", right},
          {"MEMORY", right}, {"CACHE", right}, {"DISK", right}};
}

std::string part_of(JsonValue metric, std::string_view used, std::string_view total) {
  return byte_size(static_cast<std::uint64_t>(json_integer(metric, used))) + " of " +
         byte_size(static_cast<std::uint64_t>(json_integer(metric, total)));
}

std::vector<std::string> metrics_row(JsonValue metric) {
  char percent[32];
  std::snprintf(percent, sizeof percent, "%.1f%%", json_number(metric, "cpuUsedPct"));
  return {json_string(metric, "timestamp"),
          percent,
          std::to_string(json_integer(metric, "cpuCount")),
          part_of(metric, "memUsed", "memTotal"),
          byte_size(static_cast<std::uint64_t>(json_integer(metric, "memCache"))),
          part_of(metric, "diskUsed", "diskTotal")};
}

/// Samples later than `since`, which moves on.
awaitable<Result<void>> read_metrics(Session& session, const MetricsOptions& options, std::int64_t& since) {
  std::string path = "/sandboxes/" + url_encode(options.id) + "/metrics";
  if (since > 0) path += "?start=" + std::to_string(since);
  const auto answer = co_await session.client.request("GET", std::move(path));
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  Table table(metrics_columns());
  std::vector<JsonValue> fresh;
  std::int64_t last = since;
  for (const JsonValue metric : json_array(document->root())) {
    const std::int64_t time = json_integer(metric, "timestampUnix");
    if (since > 0 && time <= since) continue;
    fresh.push_back(metric);
    last = std::max(last, time);
    table.add(metrics_row(metric));
  }
  const bool first = since == 0;
  since = last;
  if (session.json) {
    for (const JsonValue metric : fresh) print_json(metric);
  } else if (first || !fresh.empty()) {
    table.print();
    std::fflush(stdout);
  }
  co_return Result<void>{};
}

awaitable<Outcome> metrics(Session& session, const MetricsOptions& options) {
  std::int64_t since = 0;
  for (bool was_there = false;; was_there = true) {
    const auto shown = co_await read_metrics(session, options, since);
    if (!shown.ok() && options.follow && is_end(shown.error(), was_there)) co_return 0;
    if (!shown.ok()) co_return shown.error();
    if (!options.follow) co_return 0;
    co_await wait(metrics_interval);
  }
}

}  // namespace

void add_watch_commands(CommandLine& line, CLI::App& group) {
  auto log = std::make_shared<LogOptions>();
  auto* command = group.add_subcommand("logs", "what happened to a sandbox and its processes");
  command->add_option("sandbox", log->id)->required()->type_name(sandbox_type);
  command->add_flag("-f,--follow", log->follow, "go on until the sandbox ends");
  command->add_option("--level", log->level, "and what is graver")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  line.runs(command, log, logs);

  auto use = std::make_shared<MetricsOptions>();
  command = group.add_subcommand("metrics", "the processor, memory and disk that a sandbox used");
  command->add_option("sandbox", use->id)->required()->type_name(sandbox_type);
  command->add_flag("-f,--follow", use->follow, "go on until the sandbox ends");
  line.runs(command, use, metrics);
}

}  // namespace cube::cubectl
