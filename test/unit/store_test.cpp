// The store: what is remembered over a restart, and what an older or a damaged database does.
#include <sqlite3.h>

#include <cube/node.hpp>

#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::node;
using cube::test::TemporaryDirectory;

namespace {

template <class T>
T must(Result<T> result) {
  if (!result.ok()) FAIL(result.error().describe());
  return std::move(result).value();
}

/// A database as another program, or an older one of ours, left it.
void make_database(const std::string& path, const char* sql) {
  sqlite3* database = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &database) == SQLITE_OK);
  REQUIRE(sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(database);
}

CheckpointRow checkpoint(const std::string& id, const std::string& name, const std::string& parent) {
  return {id, name, "i1", "t1", "base", parent, 7};
}

std::map<std::string, CheckpointRow> checkpoints_of(Store& store) {
  std::map<std::string, CheckpointRow> rows;
  for (const CheckpointRow& row : must(store.checkpoints())) rows[row.id] = row;
  return rows;
}

}  // namespace

TEST_CASE("what the store was told is there after it is opened again") {
  const TemporaryDirectory directory;
  const std::string path = directory / "store.db";
  {
    const auto store = must(Store::open(path));
    REQUIRE(store->put_sandbox({"i1", "t1", "running", 5, 6, "old"}).ok());
    REQUIRE(store->put_sandbox({"i1", "t1", "paused", 5, 7, "{\"a\":1}"}, Durability::host).ok());
    REQUIRE(store->put_sandbox({"i2", "t1", "running", 5, 6, ""}).ok());
    REQUIRE(store->remove_sandbox("i2").ok());
    REQUIRE(store->put_template({"t1", "base", 2, 512, 800, 1}).ok());
    REQUIRE(store->put_template({"t2", "base", 4, 1024, 800, 2}).ok());
    REQUIRE(store->put_checkpoint({"c1", "n", "i1", "t1", "base", "p", 9}).ok());
  }
  const auto store = must(Store::open(path));
  const auto sandboxes = must(store->sandboxes());
  REQUIRE(sandboxes.size() == 1);
  CHECK(sandboxes[0].id == "i1");
  CHECK(sandboxes[0].state == "paused");
  CHECK(sandboxes[0].end_at_ms == 7);
  CHECK(sandboxes[0].record == "{\"a\":1}");
  const auto templates = must(store->templates());
  REQUIRE(templates.size() == 1);  // the name went over to the newer one
  CHECK(templates[0].id == "t2");
  CHECK(templates[0].memory_mib == 1024);
  const CheckpointRow row = checkpoints_of(*store).at("c1");
  CHECK(row.name == "n");
  CHECK(row.sandbox_id == "i1");
  CHECK(row.template_id == "t1");
  CHECK(row.template_name == "base");
  CHECK(row.parent_id == "p");
  CHECK(row.created_at_ms == 9);
}

TEST_CASE("the newest checkpoint with a name has it, and any number have none") {
  const TemporaryDirectory directory;
  const auto store = must(Store::open(directory / "store.db"));
  for (const auto& [id, name] :
       {std::pair("c1", "good"), {"c2", ""}, {"c3", "other"}, {"c4", ""}, {"c5", "good"}})
    REQUIRE(store->put_checkpoint(checkpoint(id, name, "")).ok());
  const auto rows = checkpoints_of(*store);
  CHECK(rows.at("c1").name.empty());
  CHECK(rows.at("c3").name == "other");
  CHECK(rows.at("c5").name == "good");
  CHECK_FALSE(store->put_checkpoint(checkpoint("c5", "third", "")).ok());  // ids are never used again
  CHECK(checkpoints_of(*store).at("c5").name == "good");
}

TEST_CASE("what descends from a removed checkpoint descends from its parent") {
  const TemporaryDirectory directory;
  const auto store = must(Store::open(directory / "store.db"));
  const std::string of_another = R"({"checkpoint_id":"c9"})";
  REQUIRE(
      store->put_sandbox({"s1", "t1", "paused", 1, 2, R"({"checkpoint_id":"c2","name":"\u0000é"})"}).ok());
  REQUIRE(store->put_sandbox({"s2", "t1", "paused", 1, 2, of_another}).ok());
  REQUIRE(store->put_sandbox({"s3", "t1", "paused", 1, 2, "no JSON"}).ok());
  for (const auto& [id, parent] :
       {std::pair("c1", ""), {"c2", "c1"}, {"c3", "c2"}, {"c4", "c2"}, {"c5", "c3"}})
    REQUIRE(store->put_checkpoint(checkpoint(id, "", parent)).ok());
  REQUIRE(store->remove_checkpoint("c2").ok());
  auto rows = checkpoints_of(*store);
  CHECK(rows.size() == 4);
  CHECK(rows.at("c3").parent_id == "c1");
  CHECK(rows.at("c4").parent_id == "c1");
  CHECK(rows.at("c5").parent_id == "c3");
  std::map<std::string, std::string> records;
  for (const SandboxRow& row : must(store->sandboxes())) records[row.id] = row.record;
  CHECK(records.at("s1") == R"({"checkpoint_id":"c1","name":"\u0000é"})");
  CHECK(records.at("s2") == of_another);
  CHECK(records.at("s3") == "no JSON");
  REQUIRE(store->remove_checkpoint("c1").ok());
  CHECK(checkpoints_of(*store).at("c3").parent_id.empty());
  REQUIRE(store->remove_checkpoint("unknown").ok());
  CHECK(checkpoints_of(*store).size() == 3);
}

TEST_CASE("a store of the first version keeps its templates; its sandboxes ended with their daemon") {
  const TemporaryDirectory directory;
  const std::string path = directory / "store.db";
  make_database(path, R"(
      CREATE TABLE template(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, vcpu_count INTEGER NOT NULL,
                            memory_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL, created_at_ms INTEGER NOT NULL);
      CREATE TABLE sandbox(id TEXT PRIMARY KEY, template_id TEXT NOT NULL, state TEXT NOT NULL,
                           started_at_ms INTEGER NOT NULL, end_at_ms INTEGER NOT NULL);
      INSERT INTO template VALUES('t1', 'base', 2, 512, 800, 1);
      INSERT INTO sandbox VALUES('i1', 't1', 'running', 1, 2);
      PRAGMA user_version=1;)");
  for (int opening = 0; opening < 2; ++opening) {
    const auto store = must(Store::open(path));
    CHECK(must(store->templates()).at(0).name == "base");
    CHECK(must(store->sandboxes()).empty());
    CHECK(must(store->checkpoints()).empty());
  }
  const auto store = must(Store::open(path));
  REQUIRE(store->put_sandbox({"i2", "t1", "paused", 1, 2, "{}"}).ok());
  CHECK(must(store->sandboxes()).at(0).record == "{}");
}

TEST_CASE("a migration that fails changes nothing") {
  const TemporaryDirectory directory;
  const std::string path = directory / "store.db";
  make_database(path, "CREATE TABLE checkpoint(x); CREATE TABLE sandbox(id TEXT); PRAGMA user_version=1;");
  for (int opening = 0; opening < 2; ++opening) {
    const auto store = Store::open(path);
    REQUIRE_FALSE(store.ok());
    CHECK(store.error().object == path);
    CHECK(store.error().message.find("checkpoint") != std::string::npos);  // not: no such table sandbox
  }
}

TEST_CASE("names that try to be SQL are only names") {
  const TemporaryDirectory directory;
  const auto store = must(Store::open(directory / "store.db"));
  const std::string hostile = "x'); DROP TABLE sandbox; --";
  REQUIRE(store->put_sandbox({hostile, "t", "running", 1, 2, hostile}).ok());
  CHECK(must(store->sandboxes()).at(0).id == hostile);
  CHECK(must(store->sandboxes()).at(0).record == hostile);
}

TEST_CASE("a store of another version, or none at all, is refused with its path") {
  const TemporaryDirectory directory;
  const std::string path = directory.path + "/store.db";
  make_database(path, "PRAGMA user_version=99");
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

TEST_CASE("an update never writes over another state, and makes no row") {
  const TemporaryDirectory directory;
  const auto store = Store::open(directory.path + "/store.db");
  REQUIRE(store.ok());
  REQUIRE((*store)->put_sandbox({"i1", "t", "paused", 1, 2, "{}"}).ok());
  REQUIRE((*store)->update_sandbox({"i1", "t", "running", 1, 9, "{}"}).ok());
  REQUIRE((*store)->update_sandbox({"i2", "t", "running", 1, 9, "{}"}).ok());
  auto rows = (*store)->sandboxes();
  REQUIRE(rows.ok());
  REQUIRE(rows->size() == 1);
  CHECK(rows->front().end_at_ms == 2);
  REQUIRE((*store)->update_sandbox({"i1", "t", "paused", 1, 9, "{}"}).ok());
  rows = (*store)->sandboxes();
  REQUIRE(rows.ok());
  CHECK(rows->front().end_at_ms == 9);
}
