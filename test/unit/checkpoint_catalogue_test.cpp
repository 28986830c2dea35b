// The catalogue of checkpoints: finding, naming, descent, and what a restart finds.
#include "node/checkpoint_catalogue.hpp"

#include <sqlite3.h>

#include <asio/thread_pool.hpp>

#include "event_loop.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::node;
using namespace cube::snapshot::test;
using cube::test::must;

namespace {

/// A daemon's checkpoints; `restart` is the next daemon's start.
struct Node {
  Place place;
  std::string directory = place / "checkpoints";
  asio::io_context loop;
  asio::thread_pool workers{2};
  std::unique_ptr<Store> store = must(Store::open(place / "store.db"));
  std::unique_ptr<CheckpointCatalogue> catalogue;
  std::vector<std::pair<std::string, std::string>> removed;
  snapshot::SnapshotPtr snapshot = capture_booted(place);

  Node() {
    fs::create_directory(directory);
    restart();
  }
  void restart() {
    catalogue = std::make_unique<CheckpointCatalogue>(
        vmm::Executors{loop.get_executor(), workers.get_executor()}, *store, directory, place.scratch,
        [this](const std::string& gone, const std::string& parent) { removed.emplace_back(gone, parent); });
    REQUIRE(catalogue->load().ok());
  }

  template <class Operation>
  auto await(Operation operation) {
    using Outcome = typename decltype(operation())::value_type;
    std::optional<Outcome> outcome;
    test::run(loop, [&]() -> asio::awaitable<void> { outcome = co_await operation(); });
    return std::move(*outcome);
  }
  Result<CheckpointInfo> try_add(const std::string& name, const std::string& parent = "",
                                 const std::string& sandbox = "i1") {
    CheckpointInfo info;
    info.name = name;
    info.parent_id = parent;
    info.sandbox_id = sandbox;
    info.template_id = "t1";
    info.template_name = "base";
    return await([&] { return catalogue->add(info, snapshot); });
  }
  CheckpointInfo add(const std::string& name, const std::string& parent = "") {
    return must(try_add(name, parent));
  }
  Result<void> remove(const std::string& reference) {
    return await([&] { return catalogue->remove(reference); });
  }
  Names directories() const {
    Names names;
    for (const auto& item : fs::directory_iterator(directory)) names.insert(item.path().filename());
    return names;
  }
};

ErrorCode code_of(const auto& result) { return result.ok() ? ErrorCode{} : result.error().code; }

}  // namespace

TEST_CASE("a checkpoint is found by id and name, each with the tags there are") {
  Node node;
  const CheckpointInfo info = node.add("good");
  CHECK(info.id.size() == 20);
  CHECK(info.vcpu_count == 2);
  CHECK(info.created_at > Clock::now() - std::chrono::minutes(1));
  for (const std::string& base : {info.id, std::string("good")})
    for (const std::string tag : {"", ":default", ":latest"}) {
      CHECK(must(node.catalogue->find(base + tag)).id == info.id);
      const CloneSource source = must(node.catalogue->source(base + tag));
      CHECK(source.checkpoint_id == info.id);
      CHECK(source.template_id == "t1");
      CHECK(source.template_name == "base");
      CHECK(source.snapshot == node.snapshot);
    }
  for (const std::string unknown :
       {"", ":", ":default", "other", "good:v2", "good:", "good:default:default"}) {
    INFO(unknown);
    CHECK(code_of(node.catalogue->find(unknown)) == ErrorCode::not_found);
    CHECK(code_of(node.catalogue->source(unknown)) == ErrorCode::not_found);
    CHECK(code_of(node.remove(unknown)) == ErrorCode::not_found);
  }
  CHECK(node.directories() == Names{info.id});
}

TEST_CASE("a name goes to the newest checkpoint, before and after a restart") {
  Node node;
  const CheckpointInfo older = node.add("good"), unnamed = node.add(""), newer = node.add("good");
  for (int start = 0; start < 2; ++start, node.restart()) {
    CHECK(must(node.catalogue->find("good")).id == newer.id);
    CHECK(must(node.catalogue->find(older.id)).name.empty());
    const auto list = node.catalogue->list();
    REQUIRE(list.size() == 3);
    CHECK(std::ranges::is_sorted(list, std::greater(), &CheckpointInfo::created_at));
  }
  REQUIRE(node.remove("good").ok());
  CHECK(code_of(node.catalogue->find("good")) == ErrorCode::not_found);  // nobody has it now
  CHECK(node.directories() == Names{older.id, unnamed.id});
}

TEST_CASE("of checkpoints taken at once with one name, one has it, the same after a restart") {
  Node node;
  int added = 0;
  const auto add = [&](std::size_t) -> asio::awaitable<void> {
    CheckpointInfo info;
    info.name = "good";
    const auto outcome = co_await node.catalogue->add(std::move(info), node.snapshot);
    added += outcome.ok();
  };
  test::run(node.loop, [&] { return for_each_concurrently(8, 8, add); });
  REQUIRE(added == 8);
  const std::string owner = must(node.catalogue->find("good")).id;
  node.restart();
  CHECK(must(node.catalogue->find("good")).id == owner);
  CHECK(node.catalogue->list().size() == 8);
}

TEST_CASE("checkpoints come back after a restart with what they hold") {
  Node node;
  const Content content = content_of(node.place, node.snapshot);
  const CheckpointInfo parent = node.add("parent"), child = node.add("child", parent.id);
  node.restart();
  const CheckpointInfo info = must(node.catalogue->find("child"));
  CHECK(info.id == child.id);
  CHECK(info.parent_id == parent.id);
  CHECK(info.sandbox_id == "i1");
  CHECK(info.template_name == "base");
  CHECK(info.vcpu_count == 2);
  CHECK(info.created_at - child.created_at < std::chrono::milliseconds(1));
  CHECK(content_of(node.place, must(node.catalogue->source("child")).snapshot) == content);
}

TEST_CASE("a damaged checkpoint is listed, refused with its file and reason, and can be removed") {
  Node node;
  const CheckpointInfo damaged = node.add("damaged"), lost = node.add("lost"), whole = node.add("whole");
  fs::remove(node.directory + "/" + damaged.id + "/memory");
  fs::remove_all(node.directory + "/" + lost.id);
  node.restart();
  CHECK(node.catalogue->list().size() == 3);
  CHECK(node.catalogue->find("damaged").ok());
  const auto source = node.catalogue->source("damaged");
  REQUIRE_FALSE(source.ok());
  CHECK(source.error().code == ErrorCode::corrupt);
  CHECK(source.error().message.find("memory") != std::string::npos);
  CHECK(source.error().describe().find(node.directory) ==
        std::string::npos);  // not where the daemon keeps it
  CHECK_FALSE(node.catalogue->source("lost").ok());
  CHECK(node.catalogue->source("whole").ok());

  CHECK(node.remove("damaged").ok());
  CHECK(node.remove("lost").ok());
  node.restart();
  CHECK(node.catalogue->list().size() == 1);
  CHECK(node.directories() == Names{whole.id});
}

TEST_CASE("what a crash left of unfinished checkpoints is removed at the start") {
  Node node;
  const CheckpointInfo info = node.add("");
  REQUIRE(node.snapshot->publish(node.directory + "/unknownunknownunknow").ok());
  fs::create_directory(node.directory + "/.tmp-0123456789abcdef");
  node.restart();
  CHECK(node.directories() == Names{info.id});
  CHECK(node.catalogue->source(info.id).ok());
}

TEST_CASE("descent goes through parents, also when one of them is removed") {
  Node node;
  const std::string a = node.add("").id, b = node.add("", a).id, c = node.add("", b).id,
                    d = node.add("", c).id;
  const std::string other = node.add("", a).id;
  CHECK(node.catalogue->descends(d, a));
  CHECK(node.catalogue->descends(d, d));
  CHECK_FALSE(node.catalogue->descends(a, d));
  CHECK_FALSE(node.catalogue->descends(d, other));
  CHECK_FALSE(node.catalogue->descends("", a));
  CHECK_FALSE(node.catalogue->descends("", ""));
  REQUIRE(node.remove(c).ok());
  CHECK(node.removed == std::vector{std::pair(c, b)});
  for (int start = 0; start < 2; ++start, node.restart()) {
    CHECK(node.catalogue->descends(d, b));
    CHECK(node.catalogue->descends(d, a));
    CHECK_FALSE(node.catalogue->descends(d, c));
  }
}

TEST_CASE("a store that says checkpoints descend in a circle is survived") {
  Node node;
  const std::string a = node.add("").id;
  REQUIRE(node.store->put_checkpoint({"x1", "", "i", "t", "b", "x2", 0}).ok());
  REQUIRE(node.store->put_checkpoint({"x2", "", "i", "t", "b", "x1", 0}).ok());
  node.restart();
  CHECK(node.catalogue->descends("x1", "x2"));
  CHECK_FALSE(node.catalogue->descends("x1", a));
}

TEST_CASE("a checkpoint that cannot be published or stored is none") {
  Node node;
  node.add("good");
  const Names before = node.directories();
  SECTION("no room for its files") {
    fs::rename(node.directory, node.place / "away");
    CHECK_FALSE(node.try_add("good").ok());
    fs::rename(node.place / "away", node.directory);
  }
  SECTION("a store that refuses") {
    sqlite3* database = nullptr;
    REQUIRE(sqlite3_open((node.place / "store.db").c_str(), &database) == SQLITE_OK);
    REQUIRE(sqlite3_exec(database, "DROP TABLE checkpoint", nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(database);
    CHECK_FALSE(node.try_add("good").ok());
  }
  CHECK(node.directories() == before);
  CHECK(node.catalogue->list().size() == 1);
  CHECK(node.catalogue->find("good").ok());
}

TEST_CASE("a merge takes the checkpoint's place, unless the checkpoint is gone") {
  Node node;
  node.snapshot = capture_chain(node.place, 3);
  const CheckpointInfo info = node.add("deep");
  const Content content = content_of(node.place, node.snapshot);
  const auto merged = must(snapshot::merge(node.snapshot));
  const auto replace = [&] {
    test::run(node.loop, [&] { return node.catalogue->replace(node.snapshot, merged); });
  };
  SECTION("it is there") {
    replace();
    CHECK(must(node.catalogue->source("deep")).snapshot == merged);
    node.restart();
    CHECK(must(node.catalogue->source("deep")).snapshot->depth() == 1);
    CHECK(content_of(node.place, must(node.catalogue->source("deep")).snapshot) == content);
  }
  SECTION("its directory is gone") {
    fs::remove_all(node.directory + "/" + info.id);
    replace();
    CHECK(must(node.catalogue->source("deep")).snapshot == node.snapshot);
  }
  SECTION("it was removed") {
    REQUIRE(node.remove("deep").ok());
    replace();
    CHECK(node.directories().empty());
  }
}
