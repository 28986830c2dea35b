#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cube/node.hpp>
#include <filesystem>
#include <set>

#include "node/lifecycle.hpp"

using namespace cube;
using namespace cube::node;

namespace {

constexpr std::array all_states = {SandboxState::creating, SandboxState::running,  SandboxState::pausing,
                                   SandboxState::paused,   SandboxState::resuming, SandboxState::killing,
                                   SandboxState::dead};

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

TEST_CASE("what the store was told is there after it is opened again") {
  const TemporaryDirectory directory;
  const std::string path = directory.path + "/store.db";
  {
    const auto store = Store::open(path);
    REQUIRE(store.ok());
    REQUIRE((*store)->put_sandbox({"i1", "t1", "running", 5, 6}).ok());
    REQUIRE((*store)->put_sandbox({"i1", "t1", "running", 5, 7}).ok());
    REQUIRE((*store)->put_sandbox({"i2", "t1", "running", 5, 6}).ok());
    REQUIRE((*store)->remove_sandbox("i2").ok());
    REQUIRE((*store)->put_template({"t1", "base", 2, 512, 800, 1}).ok());
    REQUIRE((*store)->put_template({"t2", "base", 4, 1024, 800, 2}).ok());
  }
  const auto store = Store::open(path);
  REQUIRE(store.ok());
  const auto sandboxes = (*store)->sandboxes();
  REQUIRE(sandboxes.ok());
  REQUIRE(sandboxes->size() == 1);
  CHECK(sandboxes->front().id == "i1");
  CHECK(sandboxes->front().end_at_ms == 7);
  const auto templates = (*store)->templates();
  REQUIRE(templates.ok());
  REQUIRE(templates->size() == 1);  // the name went over to the newer one
  CHECK(templates->front().id == "t2");
  CHECK(templates->front().memory_mib == 1024);
}

TEST_CASE("names that try to be SQL are only names") {
  const TemporaryDirectory directory;
  const auto store = Store::open(directory.path + "/store.db");
  REQUIRE(store.ok());
  const std::string hostile = "x'); DROP TABLE sandbox; --";
  REQUIRE((*store)->put_sandbox({hostile, "t", "running", 1, 2}).ok());
  const auto rows = (*store)->sandboxes();
  REQUIRE(rows.ok());
  CHECK(rows->front().id == hostile);
}

TEST_CASE("a store of another version, or none at all, is refused with its path") {
  const TemporaryDirectory directory;
  const std::string path = directory.path + "/store.db";
  sqlite3* other = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &other) == SQLITE_OK);
  REQUIRE(sqlite3_exec(other, "PRAGMA user_version=99", nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(other);
  const auto newer = Store::open(path);
  REQUIRE_FALSE(newer.ok());
  CHECK(newer.error().code == ErrorCode::conflict);
  CHECK(newer.error().describe().find(path) == 0);

  const std::string junk = directory.path + "/junk.db";
  REQUIRE(write_file_atomically(junk, std::string(8192, 'x')).ok());
  const auto damaged = Store::open(junk);
  REQUIRE_FALSE(damaged.ok());
  CHECK(damaged.error().code == ErrorCode::corrupt);
  CHECK_FALSE(Store::open(directory.path + "/missing/store.db").ok());
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

TEST_CASE("the host's memory is read") {
  const auto memory = host_memory();
  REQUIRE(memory.ok());
  CHECK(memory->total_mib > 0);
  CHECK(memory->available_mib <= memory->total_mib);
}
