// What clones teach their snapshot about the pages the next ones need.
#include <deque>

#include "snapshots.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using cube::disk::test::unwrap;
using cube::test::TemporaryDirectory;
using snapshot::SnapshotPtr;
using Phase = snapshot::Witness::Phase;

namespace {

/// A template of a guest that counts, and clones of what it is taken as.
struct Counting {
  Host host;
  TemporaryDirectory directory;
  Observer parent;
  std::deque<Observer> observers;  // of each clone
  snapshot::ShellPool shells{host.shells, host.workers.get_executor(), 0};
  std::uint64_t counter = 0;
  SnapshotPtr first;

  Counting() {
    const auto machine = boot(host, parent, "user");
    REQUIRE(machine->resume().ok());
    REQUIRE(parent.wait_for_text("counter at "));
    counter = number_after(parent.console(), "counter at ");
    wait_until_above(*machine, parent, counter, 10);
    REQUIRE(machine->pause().ok());
    first = capture_booted(*machine, directory);
  }

  /// One that has counted some further, and was used or not.
  snapshot::Clone clone(const SnapshotPtr& snapshot, bool used = false) {
    MachineConfig config;
    config.new_generation = used;
    config.generation_id = {1};
    Observer& observer = observers.emplace_back();
    observer.attach(config);
    auto made = unwrap(snapshot->clone(shells, host.executors(), std::move(config)));
    const std::uint64_t before = word_at(*made.machine, counter);
    REQUIRE(made.machine->resume().ok());
    wait_until_above(*made.machine, observer, counter, before + 10);
    REQUIRE(made.machine->pause().ok());
    return made;
  }
};

}  // namespace

TEST_CASE("the first clones of a template tell what they needed, and two what was used after they came up") {
  Counting guest;
  const SnapshotPtr& snapshot = guest.first;
  for (int i = 0; i < 3; ++i) {
    const auto clone = guest.clone(snapshot);  // from the second on with what is known, and goes on counting
    REQUIRE(clone.witness);
    REQUIRE(clone.witness->wanted(Phase::came_up));
    CHECK(clone.witness->wanted(Phase::used) == (i > 0));
    clone.witness->learn(*clone.machine, Phase::came_up);
  }
  for (int i = 0; i < 2; ++i) {
    const auto hardly_used = guest.clone(snapshot);
    REQUIRE(hardly_used.witness);
    hardly_used.witness->learn(*hardly_used.machine, Phase::used);
    const auto clone = guest.clone(snapshot, true);
    REQUIRE(clone.witness);
    CHECK_FALSE(clone.witness->wanted(Phase::came_up));
    CHECK(clone.witness->wanted(Phase::used));
    clone.witness->learn(*clone.machine, Phase::used);
    CHECK(clone.witness->wanted(Phase::used) == (i == 0));
  }
  CHECK_FALSE(guest.clone(snapshot).witness);
}

TEST_CASE("of many clones few are watched, and others when those have gone") {
  Counting guest;
  std::vector<snapshot::Clone> watched;
  for (int i = 0; i < 4; ++i) {
    watched.push_back(guest.clone(guest.first));
    REQUIRE(watched.back().witness);
  }
  CHECK_FALSE(guest.clone(guest.first).witness);
  watched.pop_back();
  CHECK(guest.clone(guest.first).witness);
}

TEST_CASE("a later snapshot begins with its parent's working set, and learns if it is cloned again") {
  Counting guest;
  const auto clone = guest.clone(guest.first);
  clone.witness->learn(*clone.machine, Phase::came_up);
  const SnapshotPtr later = unwrap(snapshot::capture(guest.first, *clone.machine, *clone.disk));
  CHECK_FALSE(guest.clone(later).witness);  // one that is only resumed has nothing to learn for
  const auto second = guest.clone(later);
  REQUIRE(second.witness);
  second.witness->learn(*second.machine, Phase::came_up);
  CHECK(second.witness->wanted(Phase::used));
  guest.clone(later);
}

TEST_CASE("what was told everything has nothing left for later snapshots to learn") {
  Counting guest;
  for (int i = 0; i < 3; ++i) {
    const auto clone = guest.clone(guest.first);
    clone.witness->learn(*clone.machine, Phase::came_up);
  }
  const auto one = guest.clone(guest.first, true), used = guest.clone(guest.first, true);
  for (const auto* clone : {&one, &used}) clone->witness->learn(*clone->machine, Phase::used);
  const SnapshotPtr later = unwrap(snapshot::capture(guest.first, *used.machine, *used.disk));
  for (int i = 0; i < 3; ++i) CHECK_FALSE(guest.clone(later).witness);
}

TEST_CASE("a clone that has stopped tells nothing: its memory is gone") {
  Counting guest;
  const auto clone = guest.clone(guest.first);
  clone.machine->stop();
  clone.witness->learn(*clone.machine, Phase::came_up);
  CHECK_FALSE(clone.witness->wanted(Phase::used));  // which is asked for when one has told how it came up
  CHECK(clone.witness->wanted(Phase::came_up));
}

TEST_CASE("what goes on has what it wrote last before it runs, unless that is much") {
  Writing guest("history");
  Observer observer;
  const auto own_pages = [&](const SnapshotPtr& snapshot, snapshot::Readiness readiness) {
    return snapshot::private_bytes(*guest.clone(snapshot, observer, readiness).machine) / page_size;
  };
  using snapshot::Readiness;
  constexpr std::uint64_t some = 600;
  guest.write(some);
  const SnapshotPtr second = unwrap(snapshot::capture(guest.first, *guest.machine, *guest.disk));
  CHECK(own_pages(second, Readiness::to_come_up) < some);
  CHECK(own_pages(second, Readiness::to_go_on) >= some);

  constexpr std::uint64_t much = 5000;
  guest.write(much);
  const SnapshotPtr third = unwrap(snapshot::capture(second, *guest.machine, *guest.disk));
  CHECK(own_pages(third, Readiness::to_go_on) < some);
}
