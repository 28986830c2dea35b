// Metrics and logs over HTTP, and the keys that make creates idempotent.
#include "api/idempotency.hpp"
#include "api_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

constexpr std::int64_t noon = 1767355200;  // 2026-01-02T12:00:00Z

node::Metric metric_at(std::int64_t unix_seconds) {
  node::Metric metric;
  metric.at = node::TimePoint(std::chrono::seconds(unix_seconds)) + 678ms;
  metric.cpu_count = 2;
  metric.cpu_used_percent = 12.5;
  metric.memory_used = 1;
  metric.memory_total = 9007199254740992;
  metric.memory_cache = 3;
  metric.disk_used = 4;
  metric.disk_total = 5;
  return metric;
}

node::LogEntry entry(std::int64_t unix_ms, LogLevel level, std::string message) {
  node::LogEntry made;
  made.at = node::TimePoint(std::chrono::milliseconds(unix_ms));
  made.level = level;
  made.source = "cubed";
  made.message = std::move(message);
  return made;
}

std::size_t size_of(const std::string& body, const std::string& pointer) {
  simdjson::dom::parser parser;
  return simdjson::dom::array(parser.parse(body).at_pointer(pointer)).size();
}

}  // namespace

TEST_CASE("metrics are SandboxMetrics in the order of their times, of the seconds asked for") {
  Fixture fixture;
  const std::string id = fixture.create();
  for (const std::int64_t time : {noon, noon + 5, noon + 10})
    fixture.sandboxes.samples[id].push_back(metric_at(time));
  const auto all = fixture.call("GET", "/sandboxes/" + id + "/metrics");
  CHECK(all.status == 200);
  CHECK(
      at(all.body, "/0") ==
      R"({"timestamp":"2026-01-02T12:00:00.678Z","timestampUnix":1767355200,"cpuCount":2,"cpuUsedPct":12.5,)"
      R"("memUsed":1,"memTotal":9007199254740992,"memCache":3,"diskUsed":4,"diskTotal":5})");
  const auto [query, count] = GENERATE(table<std::string, std::size_t>({
      {"", 3},
      {"?start=0", 3},
      {"?start=1767355200&end=1767355200", 1},
      {"?start=1767355201&end=1767355210", 2},
      {"?end=1767355204", 1},
      {"?start=1767355211", 0},
      {"?end=1767355199", 0},
  }));
  INFO(query);
  CHECK(size_of(fixture.call("GET", "/sandboxes/" + id + "/metrics" + query).body, "") == count);
}

TEST_CASE("metrics refuse what is no time, and name unknown sandboxes") {
  Fixture fixture;
  const std::string path = "/sandboxes/" + fixture.create() + "/metrics";
  const auto [query, name] = GENERATE(table<std::string, std::string>({
      {"start=yesterday", "start"},
      {"start=", "start"},
      {"start=-1", "start"},
      {"end=1.5", "end"},
      {"end=99999999999999999999", "end"},
      {"end=1767355200000", "end"},  // milliseconds by mistake
      {"start=2&end=1", "start"},
      {"start=%zz", "query"},
  }));
  INFO(query);
  CHECK(contains(problem(fixture.call("GET", path + "?" + query), 400), name));
  CHECK(problem(fixture.call("GET", "/sandboxes/nonexistingsandbox/metrics"), 404) ==
        R"("sandbox 'nonexistingsandbox' not found")");
  problem(fixture.call("GET", "/sandboxes/A/metrics"), 400);
}

TEST_CASE("the newest metrics of many sandboxes come by id, without those nobody knows") {
  Fixture fixture;
  const std::string one = fixture.create(), two = fixture.create(), silent = fixture.create();
  fixture.sandboxes.samples[one].push_back(metric_at(noon));
  fixture.sandboxes.samples[two].push_back(metric_at(noon));
  fixture.sandboxes.samples[two].push_back(metric_at(noon + 5));
  const auto response = fixture.call("GET", "/sandboxes/metrics?sandbox_ids=" + one + "," + two +
                                                "-6532622b%2C" + silent + ",unknown," + one);
  CHECK(response.status == 200);
  CHECK(at(response.body, "/sandboxes/" + one + "/timestampUnix") == "1767355200");
  CHECK(at(response.body, "/sandboxes/" + two + "/timestampUnix") == "1767355205");
  CHECK(at(response.body, "/sandboxes/" + silent) == "(nothing)");
  CHECK(fixture.sandboxes.last_ids.size() == 4);

  std::string many = "a";
  for (int i = 1; i < 100; ++i) many += ",a" + std::to_string(i);
  CHECK(fixture.call("GET", "/sandboxes/metrics?sandbox_ids=" + many).status == 200);
  for (const std::string bad :
       {"", "?sandbox_ids=", "?sandbox_ids=A", "?sandbox_ids=a,,b", "?sandbox_ids=../x"})
    CHECK(contains(problem(fixture.call("GET", "/sandboxes/metrics" + bad), 400), "sandbox_ids"));
  problem(fixture.call("GET", "/sandboxes/metrics?sandbox_ids=" + many + ",b"), 400);
}

TEST_CASE("logs come as lines the CLI can read and as entries") {
  Fixture fixture;
  const std::string id = fixture.create();
  auto made = entry(1000 * noon, LogLevel::warning, "process ended");
  made.source = "cube-agent";
  made.fields = {{"cmd", "printf '\xff\"\n'"}, {"level", "forged"}, {"logger", "forged"}};
  fixture.sandboxes.entries = {made};
  const auto response = fixture.call("GET", "/sandboxes/" + id + "/logs");
  CHECK(response.status == 200);
  CHECK(at(response.body, "/logs/0/timestamp") == R"("2026-01-02T12:00:00.000Z")");
  simdjson::dom::parser parser;
  const std::string line(std::string_view(parser.parse(response.body).at_pointer("/logs/0/line")));
  CHECK(at(line, "/level") == R"("warn")");
  CHECK(at(line, "/logger") == R"("cube-agent")");
  CHECK(at(line, "/message") == R"("process ended")");
  CHECK(at(line, "/cmd") == "\"printf '\xef\xbf\xbd\\\"\\n'\"");
  CHECK(at(response.body, "/logEntries/0/level") == R"("warn")");
  CHECK(at(response.body, "/logEntries/0/message") == R"("process ended")");
  CHECK(at(response.body, "/logEntries/0/fields/logger") == R"("cube-agent")");
  CHECK(at(response.body, "/logEntries/0/fields/level") == R"("forged")");
}

TEST_CASE("the first generation of logs goes on from a millisecond") {
  Fixture fixture;
  const std::string path = "/sandboxes/" + fixture.create() + "/logs";
  for (int i = 0; i < 5; ++i)
    fixture.sandboxes.entries.push_back(entry(1000 * noon + i, LogLevel::info, std::to_string(i)));
  const auto [query, first, count] = GENERATE(table<std::string, std::string, std::size_t>({
      {"", R"("0")", 5},
      {"?start=1767355200003", R"("3")", 2},
      {"?start=1767355200003&limit=1", R"("3")", 1},
      {"?limit=0", "(nothing)", 0},
      {"?start=1767355200005", "(nothing)", 0},
  }));
  INFO(query);
  const auto response = fixture.call("GET", path + query);
  CHECK(at(response.body, "/logEntries/0/message") == first);
  CHECK(size_of(response.body, "/logEntries") == count);
  CHECK(size_of(response.body, "/logs") == count);
  for (const std::string bad : {"start=x", "start=-1", "limit=-1", "limit=1.5", "start=99999999999999999"})
    problem(fixture.call("GET", path + "?" + bad), 400);
  problem(fixture.call("GET", "/sandboxes/nonexistingsandbox/logs"), 404);
}

TEST_CASE("the second generation of logs goes both ways and filters") {
  Fixture fixture;
  const std::string path = "/v2/sandboxes/" + fixture.create() + "/logs";
  fixture.sandboxes.entries = {
      entry(1000 * noon, LogLevel::debug, "a one"), entry(1000 * noon + 1, LogLevel::info, "b two"),
      entry(1000 * noon + 2, LogLevel::warning, "c two"), entry(1000 * noon + 3, LogLevel::error, "d Two")};
  fixture.sandboxes.entries[2].at += 999us;
  const auto [query, found] = GENERATE(table<std::string, std::string>({
      {"", "abcd"},
      {"?direction=forward", "abcd"},
      {"?direction=backward", "dcba"},
      {"?cursor=1767355200002", "cd"},
      {"?cursor=1767355200002&direction=backward", "cba"},
      {"?direction=backward&cursor=1767355200002&limit=1", "c"},
      {"?limit=2", "ab"},
      {"?limit=0", ""},
      {"?level=debug", "abcd"},
      {"?level=warn", "cd"},
      {"?level=error", "d"},
      {"?search=two", "bc"},
      {"?search=%20two&level=warn", "c"},
  }));
  INFO(query);
  const auto response = fixture.call("GET", path + query);
  REQUIRE(response.status == 200);
  std::string initials;
  for (std::size_t i = 0; i < size_of(response.body, "/logs"); ++i)
    initials += at(response.body, "/logs/" + std::to_string(i) + "/message").at(1);
  CHECK(initials == found);
}

TEST_CASE("the second generation of logs refuses what it does not understand") {
  Fixture fixture;
  const std::string path = "/v2/sandboxes/" + fixture.create() + "/logs";
  const auto [query, name] = GENERATE(table<std::string, std::string>({
      {"cursor=x", "cursor"},
      {"limit=1001", "limit"},
      {"direction=up", "direction"},
      {"level=warning", "level"},
      {"search=" + std::string(257, 'x'), "search"},
  }));
  INFO(query);
  CHECK(contains(problem(fixture.call("GET", path + "?" + query), 400), name));
  problem(fixture.call("GET", "/v2/sandboxes/nonexistingsandbox/logs"), 404);
}

// --- Idempotency-Key ---

namespace {

const api::IdempotencyKeys::Moment begun;

api::Answer as_answer(std::variant<api::IdempotencyKeys::Attempt, api::Answer> outcome) {
  REQUIRE(std::holds_alternative<api::Answer>(outcome));
  return std::get<api::Answer>(outcome);
}

void keep(api::IdempotencyKeys& keys, const std::string& key, const std::string& body,
          api::IdempotencyKeys::Moment now = begun) {
  auto outcome = keys.begin(key, body, now);
  REQUIRE(std::holds_alternative<api::IdempotencyKeys::Attempt>(outcome));
  std::get<api::IdempotencyKeys::Attempt>(outcome).keep(api::json_answer(201, "answer of " + key), now);
}

}  // namespace

TEST_CASE("while a request with a key is at work another one is told to come again") {
  api::IdempotencyKeys keys;
  {
    const auto attempt = keys.begin("a", "body", begun);
    const api::Answer busy = as_answer(keys.begin("a", "body", begun));
    CHECK(busy.status == 409);
    CHECK(contains(busy.body, "idempotency_in_progress"));
    CHECK(busy.headers.get("Should-Retry") == "true");
    CHECK(as_answer(keys.begin("a", "other", begun)).status == 422);
  }
  // It ended without an answer to keep.
  CHECK(keys.size() == 0);
  keep(keys, "a", "body");
  CHECK(as_answer(keys.begin("a", "body", begun)).body == "answer of a");
}

TEST_CASE("keys expire after a day") {
  api::IdempotencyKeys keys;
  keep(keys, "a", "body");
  CHECK(as_answer(keys.begin("a", "body", begun + 23h)).status == 201);
  keep(keys, "a", "other", begun + 24h);
  CHECK(keys.size() == 1);
}

TEST_CASE("keys are bounded in number and bytes, and the oldest gives way") {
  api::IdempotencyKeys keys;
  for (std::size_t i = 0; i <= api::IdempotencyKeys::most_keys; ++i) keep(keys, std::to_string(i), "b");
  CHECK(keys.size() == api::IdempotencyKeys::most_keys);
  CHECK(as_answer(keys.begin("1", "b", begun)).status == 201);
  keep(keys, "0", "another body");  // forgotten

  const std::string large(1 << 20, 'x');
  for (int i = 0; i < 20; ++i) keep(keys, "large-" + std::to_string(i), large);
  CHECK(keys.size() < 9);

  std::vector<std::variant<api::IdempotencyKeys::Attempt, api::Answer>> at_work;
  for (int i = 0; i < 7; ++i) at_work.push_back(keys.begin("work-" + std::to_string(i), large, begun));
  CHECK(as_answer(keys.begin("one-too-many", large, begun)).status == 429);
  at_work.clear();
  keep(keys, "one-too-many", large);
}
