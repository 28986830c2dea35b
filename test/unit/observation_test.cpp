// What the node keeps of a sandbox's use and of what happened to it, and what it believes of a guest's word.
#include <simdjson.h>

#include <catch2/catch.hpp>
#include <cube/node.hpp>

using namespace cube;
using namespace cube::node;
using namespace std::chrono_literals;

namespace {

const TimePoint noon(std::chrono::seconds(1767355200));

Metric metric_at(TimePoint time) {
  Metric metric;
  metric.at = time;
  return metric;
}

std::string usage(std::string_view cpu = "1.5", std::string_view memory_used = "1") {
  return R"({"cpu_count":9,"cpu_used_pct":)" + std::string(cpu) + R"(,"mem_used":)" +
         std::string(memory_used) + R"(,"mem_total":2,"mem_cache":3,"disk_used":4,"disk_total":5})";
}

std::string journal(const std::string& entries) { return R"({"entries":[)" + entries + "]}"; }

std::string entry(const std::string& time, const std::string& more = R"("fields":{})") {
  return R"({"unixTimeNs":")" + time + R"(","level":"warn","message":"m",)" + more + "}";
}

}  // namespace

TEST_CASE("a guest's use is read as it tells it") {
  const auto metric = parse_metric(usage());
  REQUIRE(metric.ok());
  CHECK(metric->cpu_used_percent == 1.5);
  CHECK(metric->memory_used == 1);
  CHECK(metric->memory_total == 2);
  CHECK(metric->memory_cache == 3);
  CHECK(metric->disk_used == 4);
  CHECK(metric->disk_total == 5);
  CHECK(parse_metric(usage("1")).ok());
}

TEST_CASE("a guest that tells nonsense about its use is not believed") {
  CHECK(parse_metric(usage("1e300"))->cpu_used_percent == 100);
  CHECK(parse_metric(usage("-5"))->cpu_used_percent == 0);
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{}"), std::string(1000, '['),
                                  usage("\"1\""), usage("null"), usage("1", "-1"), usage("1", "1.5"),
                                  usage("1", "9007199254740993"), usage().substr(1)}) {
    INFO(text.substr(0, 100));
    const auto metric = parse_metric(text);
    REQUIRE_FALSE(metric.ok());
    CHECK(metric.error().code == ErrorCode::guest);
  }
}

TEST_CASE("whoever asks often gets the same sample, also if the guest did not answer") {
  MetricHistory history;
  const MetricHistory::Moment start = std::chrono::steady_clock::now();
  CHECK(history.take_turn(start));
  CHECK_FALSE(history.take_turn(start));
  CHECK_FALSE(history.take_turn(start + 4s));
  CHECK(history.take_turn(start + 5s));
  CHECK_FALSE(history.take_turn(start + 6s));
}

TEST_CASE("samples are bounded, and those of whole seconds are found in order") {
  MetricHistory history;
  CHECK_FALSE(history.last());
  for (std::size_t i = 0; i < MetricHistory::capacity + 10; ++i)
    history.add(metric_at(noon + std::chrono::milliseconds(1000 * i + 900)));
  CHECK(history.between(TimePoint{}, noon + 24h).size() == MetricHistory::capacity);
  CHECK(history.between(noon, noon + 9s).empty());
  CHECK(history.between(noon + 10s, noon + 11s).size() == 2);
  CHECK(history.last()->at == noon + 900ms + std::chrono::seconds(MetricHistory::capacity + 9));
  history.add(metric_at(noon));  // the clock was set back
  CHECK(history.between(TimePoint{}, noon + 24h).front().at == noon);
  CHECK(history.last()->at == noon);
}

TEST_CASE("what happened to a sandbox is bounded, and what repeats is one entry") {
  EventLog events;
  events.add(LogLevel::info, "sandbox created", {{"templateID", "t"}});
  for (int i = 0; i < 1000; ++i) events.add_or_replace("deadline moved", {{"seconds", std::to_string(i)}});
  REQUIRE(events.entries().size() == 2);
  CHECK(events.entries().front().message == "sandbox created");
  CHECK(events.entries().back().fields.at("seconds") == "999");
  for (std::size_t i = 0; i < 2 * EventLog::capacity; ++i) events.add(LogLevel::info, std::to_string(i));
  CHECK(events.entries().size() == EventLog::capacity);
  CHECK(events.entries().back().message == std::to_string(2 * EventLog::capacity - 1));
}

TEST_CASE("a guest's journal is read as it tells it") {
  const auto entries = parse_journal(journal(entry("1767355200000000001", R"("fields":{"pid":"7"})")));
  REQUIRE(entries.ok());
  REQUIRE(entries->size() == 1);
  CHECK(entries->front().at == noon + 1ns);
  CHECK(entries->front().level == LogLevel::warning);
  CHECK(entries->front().source == "cube-agent");
  CHECK(entries->front().fields.at("pid") == "7");
}

TEST_CASE("of a guest's journal only what is an entry counts, within our calendar") {
  std::string fields;
  for (int i = 0; i < 17; ++i) fields += (i ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  const auto entries =
      parse_journal(journal(entry("-5") + ",7,{}," + entry("x") + "," + entry("1", R"("fields":{"a":1})") +
                            "," + entry("1", "\"fields\":{" + fields + "}") + "," +
                            entry("9223372036854775807") + "," + entry("99999999999999999999")));
  REQUIRE(entries.ok());
  REQUIRE(entries->size() == 2);
  CHECK(entries->front().at == TimePoint{});
  CHECK(entries->back().at == TimePoint(std::chrono::seconds(7258118400)));
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), std::string(R"({"entries":7})"),
        std::string(2000, '['), std::string("{\"entries\":[\"\xff\"]}")}) {
    const auto parsed = parse_journal(text);
    REQUIRE_FALSE(parsed.ok());
    CHECK(parsed.error().code == ErrorCode::guest);
  }
}

TEST_CASE("a journal longer than any agent's is cut") {
  std::string many = entry("1");
  for (int i = 0; i < 9000; ++i) many += "," + entry("1");
  CHECK(parse_journal(journal(many))->size() == 8192);
}

TEST_CASE("the host's log and the guest's are one, in the order of their times") {
  const auto at = [](std::chrono::seconds offset, std::string message) {
    LogEntry made;
    made.at = noon + offset;
    made.message = std::move(message);
    return made;
  };
  const auto merged =
      merge_logs({at(0s, "h0"), at(2s, "h2"), at(3s, "h3")}, {at(1s, "g1"), at(2s, "g2")}, noon + 1s);
  std::string order;
  for (const LogEntry& entry : merged) order += entry.message;
  CHECK(order == "g1h2g2h3");
}
