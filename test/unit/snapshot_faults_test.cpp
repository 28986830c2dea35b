// Snapshots on a host whose calls fail, each of them in turn.
#include "faulty_io.hpp"
#include "snapshot/gathered_runs.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using cube::test::Fault;
using cube::test::FaultyIo;

namespace {

const auto every_fault = {Fault::no_space, Fault::io_error, Fault::interrupted, Fault::short_write};

bool is_visible(Fault fault) { return fault == Fault::no_space || fault == Fault::io_error; }

/// Lets every call that `act` makes meet the fault once. `arrange` makes what the others get, afresh each
/// time; `act` says whether it worked; `check(world, worked, where)` looks at what is there then.
template <class Arrange, class Act, class Check>
std::uint64_t for_each_fault(Fault fault, Arrange arrange, Act act, Check check) {
  std::uint64_t faults = 0;
  for (bool fired = true; fired;) {
    auto world = arrange();
    FaultyIo faulty(faults + 1, fault);
    const auto done = act(*world);
    fired = faulty.disarm();
    faults += fired ? 1 : 0;
    INFO("fault " << static_cast<int>(fault) << " at call " << faults << ": "
                  << (fired ? faulty.where() : "none") << (done ? "" : ", " + done.error().describe()));
    REQUIRE(done.ok() == !(fired && is_visible(fault)));
    check(*world, done.ok(), std::string_view(fired ? faulty.where() : ""));
  }
  return faults;
}

/// A machine that was cloned and has changed since.
struct Running {
  Place place;
  SnapshotPtr parent = capture_chain(place, 1);
  Restored clone{place, parent};
  Content before = content_of(place, parent);
  Bytes disk;
  std::size_t scratch_names = 0;

  Running() {
    clone.memory().fill_page(1, 501);
    clone.memory().fill_page(200, 502);
    clone.memory().zero_page(2);
    REQUIRE(write_bytes(clone.disk(), 3 * page, pattern(2 * page, 9)).ok());
    disk = read_bytes(clone.disk(), 0, disk_bytes);
    scratch_names = place.scratch_names();
  }

  Result<void> capture_and_publish() {
    const auto captured = capture(parent, clone.machine(), clone.disk());
    if (!captured) return captured.error();
    return (*captured)->publish(place / "snapshot");
  }

  void check_published() const {
    const Content content = content_of(place, place / "snapshot");
    CHECK(content.memory == copy_of(clone.memory().bytes()));
    CHECK(content.disk == disk);
  }

  /// As before, but for the disk's top, which may have become a layer.
  void check_unharmed() {
    CHECK(place.names() == Names{"image"});
    CHECK(place.scratch_names() == scratch_names);
    CHECK(read_bytes(clone.disk(), 0, disk_bytes) == disk);
    CHECK(content_of(place, parent) == before);
  }
};

/// A published chain and its merge.
struct Deep {
  Place place;
  std::string target = place / "snapshot";
  SnapshotPtr snapshot = capture_chain(place, 2);
  Content content = content_of(place, snapshot);
  SnapshotPtr merged = unwrap(merge(snapshot));
  Deep() { REQUIRE(snapshot->publish(target).ok()); }
};

/// An image whose layer is in many small runs.
struct Scattered {
  static constexpr std::uint64_t pages = 2100;
  Place place;
  std::optional<MemoryView> view;
  std::size_t scratch_names = 0;

  Scattered() {
    Pages held;
    for (std::uint64_t i = 0; i < pages; i += 7) held[i] = 1;
    view.emplace(shared_file(place, Bytes(pages * page)), Layers{make_layer(place, pages, held)},
                 pages * page);
    scratch_names = place.scratch_names();
  }
};

}  // namespace

TEST_CASE("capturing and publishing meets every fault, harms nothing, and is done when tried again") {
  const Fault fault = GENERATE(values(every_fault));
  const std::uint64_t faults = for_each_fault(
      fault, [] { return std::make_unique<Running>(); },
      [](Running& running) { return running.capture_and_publish(); },
      [](Running& running, bool worked, std::string_view where) {
        if (worked) return running.check_published();
        running.check_unharmed();
        // A layer whose sync failed is lost; the machine that still runs has its content all the same.
        const auto again = running.capture_and_publish();
        if (where != "fsync") REQUIRE(again.ok());
        if (again.ok()) running.check_published();
      });
  CHECK(faults >= (fault == Fault::short_write ? 7 : 25));
}

TEST_CASE("a first capture meets every fault and leaves nothing behind") {
  const Fault fault = GENERATE(values(every_fault));
  struct First {
    Place place;
    Booted booted{place};
  };
  const auto act = [](First& first) -> Result<void> {
    const auto captured = first.booted.capture();
    if (!captured) return captured.error();
    return (*captured)->publish(first.place / "snapshot");
  };
  const std::uint64_t faults = for_each_fault(
      fault, [] { return std::make_unique<First>(); }, act,
      [&](First& first, bool worked, std::string_view) {
        CHECK(first.place.scratch_names() == 0);
        if (!worked) {
          CHECK(first.place.names() == Names{"image"});
          REQUIRE(act(first).ok());
        }
        const Bytes memory = content_of(first.place, first.place / "snapshot").memory;
        CHECK(
            std::equal(memory.begin(), memory.begin() + low_pages * page, first.booted.low.bytes().begin()));
      });
  CHECK(faults >= (fault == Fault::short_write ? 6 : 20));
}

TEST_CASE("replacing a snapshot meets every fault, and leaves the old one or the new one") {
  const Fault fault = GENERATE(values(every_fault));
  const std::uint64_t faults = for_each_fault(
      fault, [] { return std::make_unique<Deep>(); },
      [](Deep& deep) { return deep.merged->publish_over(deep.target); },
      [](Deep& deep, bool worked, std::string_view where) {
        CHECK(deep.place.names() == Names{"image", "snapshot"});
        CHECK(unwrap(open(deep.target, deep.place.scratch))->depth() == (worked ? 1 : 2));
        CHECK(content_of(deep.place, deep.target) == deep.content);
        if (worked || where == "fsync") return;
        REQUIRE(deep.merged->publish_over(deep.target).ok());
        CHECK(content_of(deep.place, deep.target) == deep.content);
      });
  CHECK(faults >= (fault == Fault::short_write ? 5 : 15));
}

TEST_CASE("merging meets every fault and leaves the chain as it is") {
  const Fault fault = GENERATE(values(every_fault));
  struct Chain {
    Place place;
    SnapshotPtr snapshot = capture_chain(place, 3);
    Content content = content_of(place, snapshot);
    std::size_t scratch_names = place.scratch_names();
    SnapshotPtr merged;
  };
  const auto act = [](Chain& chain) -> Result<void> {
    auto merged = merge(chain.snapshot);
    if (!merged) return merged.error();
    chain.merged = std::move(*merged);
    return {};
  };
  const std::uint64_t faults = for_each_fault(
      fault, [] { return std::make_unique<Chain>(); }, act,
      [&](Chain& chain, bool worked, std::string_view) {
        CHECK(chain.place.names() == Names{"image"});
        CHECK(chain.place.scratch_names() == chain.scratch_names + (worked ? 2 : 0));
        CHECK(content_of(chain.place, chain.snapshot) == chain.content);
        if (!worked) REQUIRE(act(chain).ok());
        CHECK(content_of(chain.place, chain.merged) == chain.content);
      });
  CHECK(faults >= (fault == Fault::short_write ? 4 : 8));
}

TEST_CASE("removing a snapshot that cannot be renamed or synced says so, and may be tried again") {
  const Fault fault = GENERATE(values(every_fault));
  for_each_fault(
      fault,
      [] {
        auto place = std::make_unique<Place>();
        REQUIRE(capture_booted(*place)->publish(*place / "snapshot").ok());
        return place;
      },
      [](Place& place) { return remove(place / "snapshot"); },
      [](Place& place, bool worked, std::string_view where) {
        if (where == "renameat2" && !worked) REQUIRE(remove(place / "snapshot").ok());
        REQUIRE(remove_leftovers(place.directory.path).ok());
        CHECK(place.names() == Names{"image"});
      });
}

TEST_CASE("gathering meets every fault, and what failed leaves no file") {
  const Fault fault = GENERATE(values(every_fault));
  std::optional<GatheredRuns> gathered;
  const std::uint64_t faults = for_each_fault(
      fault, [] { return std::make_unique<Scattered>(); },
      [&](Scattered& scattered) -> Result<void> {
        auto made = GatheredRuns::make(*scattered.view, scattered.place.scratch, 4);
        if (!made) return std::move(made).error();
        gathered = std::move(*made);
        REQUIRE(gathered);
        return {};
      },
      [&](Scattered& scattered, bool worked, std::string_view) {
        CHECK(scattered.place.scratch_names() == scattered.scratch_names + (worked ? 1 : 0));
        gathered.reset();
      });
  CHECK(faults >= 2);
}
