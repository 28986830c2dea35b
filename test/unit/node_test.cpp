// What a node decides and remembers: states, the record of a sandbox, admission.
#include <asio/io_context.hpp>
#include <atomic>
#include <catch2/catch.hpp>
#include <cube/node.hpp>
#include <set>
#include <thread>

#include "node/lifecycle.hpp"
#include "node/sandbox_record.hpp"

using namespace cube;
using namespace cube::node;

namespace {

constexpr std::array all_states = {SandboxState::creating, SandboxState::running,  SandboxState::pausing,
                                   SandboxState::paused,   SandboxState::resuming, SandboxState::killing,
                                   SandboxState::dead};

template <class T>
T must(Result<T> result) {
  if (!result.ok()) FAIL(result.error().describe());
  return std::move(result).value();
}

}  // namespace

TEST_CASE("every sandbox can reach its end, and the dead stay dead") {
  for (const SandboxState next : all_states) CHECK_FALSE(may_become(SandboxState::dead, next));
  for (const SandboxState start : all_states) {
    std::set<SandboxState> reached{start};
    for (std::size_t before = 0; before != reached.size();) {
      before = reached.size();
      for (const Transition& way : transitions)
        if (reached.contains(way.from)) reached.insert(way.to);
    }
    CHECK(reached.contains(SandboxState::dead));
  }
  CHECK_FALSE(may_become(SandboxState::paused, SandboxState::running));  // only by resuming
}

TEST_CASE("a sandbox is paused, resumed and killed by the table alone") {
  CHECK(may_become(SandboxState::pausing, SandboxState::running));  // it could not be paused
  CHECK(may_become(SandboxState::resuming, SandboxState::paused));  // it could not be resumed
  for (const SandboxState alive :
       {SandboxState::running, SandboxState::pausing, SandboxState::paused, SandboxState::resuming})
    CHECK(may_become(alive, SandboxState::killing));
  CHECK_FALSE(may_become(SandboxState::running, SandboxState::paused));  // only by pausing
  std::set<std::string_view> names;
  for (const SandboxState state : all_states) {
    CHECK_FALSE(may_become(state, state));
    names.insert(to_string(state));
  }
  CHECK(names.size() == all_states.size());
}

TEST_CASE("admission counts what is promised and gets it back") {
  Admission admission({1000, 3});
  auto first = admission.reserve(600);
  REQUIRE(first.ok());
  const auto too_much = admission.reserve(600);
  REQUIRE_FALSE(too_much.ok());
  CHECK(too_much.error().code == ErrorCode::resource_exhausted);
  first->reset();
  auto second = admission.reserve(600);
  auto third = admission.reserve(200);
  auto fourth = admission.reserve(100);
  REQUIRE((second.ok() && third.ok() && fourth.ok()));
  const auto too_many = admission.reserve(1);
  REQUIRE_FALSE(too_many.ok());
  CHECK(too_many.error().message.find("3 sandboxes") != std::string::npos);
}

TEST_CASE("processors are busy when each has something to do") {
  std::atomic<bool> done = false;
  std::vector<std::jthread> spinning;
  for (unsigned i = 0; i < 2 * processors(); ++i)
    spinning.emplace_back([&] {
      while (!done) continue;
    });
  // That they run shows when all have been seen to.
  while (!processors_are_busy()) std::this_thread::yield();
  done = true;
}

TEST_CASE("the host's memory is read") {
  const auto memory = host_memory();
  REQUIRE(memory.ok());
  CHECK(memory->total_mib > 0);
  CHECK(memory->available_mib <= memory->total_mib);
}

TEST_CASE("what is promised may be given back on any thread, once for each promise") {
  Admission admission({1000, 10});
  auto kept = must(admission.reserve(400));
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([promise = must(admission.reserve(100))]() mutable {
      const auto copy = promise;
      promise.reset();
    });
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  auto rest = must(admission.reserve(600));
  CHECK_FALSE(admission.reserve(1).ok());
  rest.reset();
  // A promise outlives whoever made it.
  auto orphan = must(std::make_unique<Admission>(Admission::Limits{10, 1})->reserve(10));
  orphan.reset();
  CHECK(admission.reserve(600).ok());
}

TEST_CASE("the host is short of memory when less than a 32nd is available") {
  CHECK(short_of_memory({3200, 99}));
  CHECK_FALSE(short_of_memory({3200, 100}));
}

// --- The record ---

namespace {

std::string record_without(const std::string& record, const std::string& key) {
  const std::size_t at = record.find("\"" + key + "\":");
  REQUIRE(at != std::string::npos);
  std::string cut = record;
  return cut.replace(at, key.size() + 2, "\"x" + key + "\"");
}

}  // namespace

TEST_CASE("a sandbox comes back from its row as it went in") {
  asio::io_context loop;
  Sandbox sandbox(loop.get_executor());
  SandboxInfo& info = sandbox.info;
  info.id = "iabc";
  info.template_id = "t1";
  info.template_name = "base \"quoted\"";
  info.state = SandboxState::paused;
  info.started_at = from_ms(1767323045678);
  info.end_at = from_ms(1767323099999);
  info.vcpu_count = 3;
  info.memory_mib = 1ull << 33;
  info.disk_mib = 10;
  info.metadata = {{"a", "1"}, {"\u00e4\n", ""}};
  info.envd_version = "0.5.7";
  info.access_token = "secret";
  info.auto_pause = true;
  info.auto_pause_memory = false;
  info.auto_resume = GENERATE(false, true);
  info.paused_with_memory = false;
  info.network = {false, "app.test:${PORT}", {{"8.8.8.8", "10.0.0.0/8"}}};
  info.traffic_access_token = "open sesame";
  sandbox.env_vars = {{"PATH", "/bin:=x"}};
  sandbox.timeout = std::chrono::seconds(77);
  sandbox.checkpoint_id = "c1";

  const SandboxRow row = to_row(sandbox);
  CHECK(row.state == "paused");
  Sandbox back(loop.get_executor());
  REQUIRE(from_row(row, back).ok());
  back.info.state = info.state;  // what it means is for who reads the rows
  CHECK(to_row(back).record == row.record);
  CHECK(back.info.id == "iabc");
  CHECK(back.info.template_name == info.template_name);
  CHECK(back.info.started_at == info.started_at);
  CHECK(back.info.end_at == info.end_at);
  CHECK(back.info.vcpu_count == 3);
  CHECK(back.info.memory_mib == info.memory_mib);
  CHECK(back.info.metadata == info.metadata);
  CHECK(back.info.access_token == "secret");
  CHECK(back.info.auto_pause);
  CHECK_FALSE(back.info.auto_pause_memory);
  CHECK(back.info.auto_resume == info.auto_resume);
  CHECK_FALSE(back.info.paused_with_memory);
  CHECK_FALSE(back.info.network.allow_public_traffic);
  CHECK(back.info.network.mask_request_host == "app.test:${PORT}");
  CHECK(back.info.network.egress.deny_out == info.network.egress.deny_out);
  CHECK(back.info.traffic_access_token == "open sesame");
  CHECK(back.env_vars == sandbox.env_vars);
  CHECK(back.timeout == sandbox.timeout);
  CHECK(back.checkpoint_id == "c1");
}

TEST_CASE("a record from before there was a network policy allows public traffic") {
  asio::io_context loop;
  SandboxRow row = to_row(Sandbox(loop.get_executor()));
  row.record = record_without(row.record, "network");
  Sandbox back(loop.get_executor());
  REQUIRE(from_row(row, back).ok());
  CHECK(back.info.network.allow_public_traffic);
  CHECK(back.info.traffic_access_token.empty());
}

TEST_CASE("a record that lacks a member, or is none, is corrupt and names the sandbox") {
  asio::io_context loop;
  const Sandbox sandbox(loop.get_executor());
  SandboxRow row = to_row(sandbox);
  row.id = "iabc";
  const std::string intact = row.record;
  std::vector<std::string> damaged = {
      "", "{", "[]", "null", "{}", intact.substr(0, intact.size() - 1), intact + "x"};
  for (const char* key : {"template_name", "vcpu_count", "memory_mib", "disk_mib", "metadata", "env_vars",
                          "envd_version", "access_token", "auto_pause", "auto_pause_memory", "auto_resume",
                          "paused_with_memory", "timeout_s", "checkpoint_id"})
    damaged.push_back(record_without(intact, key));
  for (const std::string& record : damaged) {
    INFO(record);
    row.record = record;
    Sandbox into(loop.get_executor());
    const auto read = from_row(row, into);
    REQUIRE_FALSE(read.ok());
    CHECK(read.error().code == ErrorCode::corrupt);
    CHECK(read.error().object == "iabc");
  }
}
