// What clones teach their snapshot about the pages the next ones need.
#include <cube/snapshot.hpp>

#include "../unit/disk_files.hpp"
#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using cube::disk::test::unwrap;
using cube::test::TemporaryDirectory;
using snapshot::SnapshotPtr;
using Phase = snapshot::Snapshot::Phase;

namespace {

/// A template of a guest that counts, and clones of what it is taken as.
struct Counting {
  Host host;
  TemporaryDirectory directory;
  Observer parent, observer;
  snapshot::ShellPool shells{host.shells, host.workers.get_executor(), 0};
  std::uint64_t counter = 0;
  SnapshotPtr first;

  Counting() {
    const auto machine = boot(host, parent, "counter");
    REQUIRE(machine->resume().ok());
    REQUIRE(parent.wait_for_text("counter at "));
    counter = number_after(parent.console(), "counter at ");
    wait_until_above(*machine, parent, counter, 10);
    REQUIRE(machine->pause().ok());
    snapshot::Shape shape;
    shape.vcpu_count = 1;
    shape.memory_bytes = guest_memory_bytes;
    shape.disk_bytes = 4096;
    Fd disk = unwrap(open_file(directory / "disk", O_RDWR | O_CREAT));
    REQUIRE(::ftruncate(disk.get(), 4096) == 0);
    first = unwrap(snapshot::capture_first(shape, *machine, std::move(disk), directory.path));
  }

  /// One that has counted some further.
  snapshot::Clone clone(const SnapshotPtr& snapshot) {
    MachineConfig config;
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

TEST_CASE("the first clone of a template tells what it needed, and what was used after it came up") {
  Counting guest;
  const SnapshotPtr& snapshot = guest.first;
  const auto clone = guest.clone(snapshot);
  CHECK(snapshot->learning(Phase::came_up));
  CHECK_FALSE(snapshot->learning(Phase::used));
  snapshot->learn_working_set(*clone.machine, Phase::came_up);
  CHECK_FALSE(snapshot->learning(Phase::came_up));
  CHECK(snapshot->learning(Phase::used));
  snapshot->learn_working_set(*clone.machine, Phase::used);
  CHECK_FALSE(snapshot->learning(Phase::used));
  guest.clone(snapshot);  // has it before it runs, and goes on counting
}

TEST_CASE("a later snapshot begins with its parent's working set, and learns if it is cloned again") {
  Counting guest;
  const auto clone = guest.clone(guest.first);
  guest.first->learn_working_set(*clone.machine, Phase::came_up);
  const SnapshotPtr later = unwrap(snapshot::capture(guest.first, *clone.machine, *clone.disk));
  CHECK_FALSE(later->learning(Phase::came_up));
  const auto second = guest.clone(later);
  CHECK_FALSE(later->learning(Phase::came_up));  // one that is only resumed has nothing to learn for
  const auto third = guest.clone(later);
  REQUIRE(later->learning(Phase::came_up));
  later->learn_working_set(*third.machine, Phase::came_up);
  CHECK_FALSE(later->learning(Phase::came_up));
  CHECK(later->learning(Phase::used));
  guest.clone(later);
}
