// Many clones of a snapshot whose layer is in many pieces.
#include "snapshots.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using namespace cube::snapshot;
using cube::disk::test::unwrap;
using cube::test::TemporaryDirectory;

TEST_CASE("of a snapshot that is cloned often small runs are shared, and every clone has the same memory") {
  constexpr std::uint64_t written = 768;  // pages, none beside another
  Host host;
  const TemporaryDirectory directory;
  Observer observer;
  ShellPool shells(host.shells, host.workers.get_executor(), 0);
  const auto machine = boot(host, observer, "scattered");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("count at "));
  const std::uint64_t count = number_after(observer.console(), "count at ");
  REQUIRE(machine->pause().ok());
  const SnapshotPtr first = capture_booted(*machine, directory);
  const auto disk = unwrap(first->open_disk());
  const std::uint64_t before = word_at(*machine, count);
  REQUIRE(machine->resume().ok());
  wait_until_above(*machine, observer, count, before + written);
  REQUIRE(machine->pause().ok());
  const SnapshotPtr snapshot = unwrap(capture(first, *machine, *disk));
  const auto content = copy_memory(*machine);

  constexpr std::size_t cloned = 6;
  std::vector<std::uint64_t> own;
  for (std::size_t i = 0; i < cloned; ++i) {
    Observer watching;
    MachineConfig config;
    watching.attach(config);
    auto clone = unwrap(snapshot->clone(shells, host.executors(), std::move(config)));
    CHECK((copy_memory(*clone.machine) == content));  // not printed
    own.push_back(private_bytes(*clone.machine) / page_size);
    // Nothing of what one writes is another's.
    const std::uint64_t start = word_at(*clone.machine, count);
    REQUIRE(clone.machine->resume().ok());
    wait_until_above(*clone.machine, watching, count, start + written);
    if (i + 1 < cloned) continue;
    REQUIRE(clone.machine->pause().ok());
    CHECK(unwrap(capture(snapshot, *clone.machine, *clone.disk))->depth() == snapshot->depth() + 1);
  }
  CHECK(own.front() >= written);
  CHECK(own.back() < written / 4);
}
