// What captures of one machine read of its memory, and that none of it is missed.
#include "snapshot/resident_pages.hpp"
#include "snapshots.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using namespace cube::snapshot;
using cube::disk::test::unwrap;
using cube::test::TemporaryDirectory;

namespace {

constexpr std::uint64_t some = 600;

/// A machine that has written to 24 MiB and goes on writing to one page after another.
struct Writing {
  Host host;
  TemporaryDirectory directory;
  Observer observer, clones;
  ShellPool shells{host.shells, host.workers.get_executor(), 0};
  std::unique_ptr<Machine> machine = boot(host, observer, "history");
  std::uint64_t count = 0;  ///< the address of how much it has written
  SnapshotPtr first;
  std::shared_ptr<disk::CowDisk> disk;

  Writing() {
    REQUIRE(machine->resume().ok());
    REQUIRE(observer.wait_for_text("count at "));
    count = number_after(observer.console(), "count at ");
    REQUIRE(machine->pause().ok());
    first = capture_booted(*machine, directory);
    disk = unwrap(first->open_disk());
  }

  /// To more pages than a huge one has, which is marked as one.
  void write_some() {
    const std::uint64_t before = word_at(*machine, count);
    REQUIRE(machine->resume().ok());
    wait_until_above(*machine, observer, count, before + some);
    REQUIRE(machine->pause().ok());
  }

  SnapshotPtr capture_after(const SnapshotPtr& parent) {
    SnapshotPtr captured = unwrap(capture(parent, *machine, *disk));
    MachineConfig config;
    clones.attach(config);
    const auto clone = unwrap(captured->clone(shells, host.executors(), std::move(config)));
    CHECK((copy_memory(*clone.machine) == copy_memory(*machine)));  // not printed
    return captured;
  }
};

std::uint64_t pages(const ProcessMemory& memory, WhichPages which,
                    PageMethod method = PageMethod::automatic) {
  return bytes_of(unwrap(resident_pages(memory, which, method))) / page_size;
}

}  // namespace

TEST_CASE("a machine that has written much is captured by what it wrote since the last time", "[process]") {
  Writing guest;
  guest.write_some();
  const SnapshotPtr second = guest.capture_after(guest.first);
  const auto memory = unwrap(guest.machine->memory());
  if (const auto possible = memory->forget_writes(); !possible) {
    CHECK(possible.error().code == ErrorCode::unimplemented);
    WARN("this kernel does not mark pages that are written to");
    return;
  }
  // That is a moment of which `second` does not know: the next capture reads all.
  CHECK(memory->marked_since() == 2);
  CHECK(pages(*memory, WhichPages::marked) == 0);
  guest.write_some();
  const SnapshotPtr third = guest.capture_after(second);
  CHECK(memory->marked_since() == 3);

  guest.write_some();
  const std::uint64_t marked = pages(*memory, WhichPages::marked, PageMethod::pagemap);
  CHECK(marked >= some);
  CHECK(marked == pages(*memory, WhichPages::marked));
  CHECK(pages(*memory, WhichPages::own) >= 24 << 8);
  guest.capture_after(third);
  CHECK(memory->marked_since() == 3);  // nothing was read in vain

  // As if that capture had been thrown away, or all of them.
  guest.write_some();
  guest.capture_after(third);
  guest.write_some();
  guest.capture_after(guest.first);
  CHECK(memory->marked_since() == 4);
  guest.write_some();
  guest.capture_after(third);
}

TEST_CASE("writes of machines that share a process are not told apart") {
  const auto memory = unwrap(ProcessMemory::open({}));
  CHECK(memory->forget_writes().error().code == ErrorCode::unimplemented);
  CHECK(memory->marked_since() == 0);
}
