// What captures of one machine read of its memory, and that none of it is missed.
#include "snapshot/resident_pages.hpp"
#include "snapshots.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using namespace cube::snapshot;
using cube::disk::test::unwrap;

namespace {

/// To more pages than a huge one has, which is marked as one.
constexpr std::uint64_t some = 600;

/// One that has written to 24 MiB.
struct Capturing : Writing {
  Observer clones;

  Capturing() : Writing("history") {}

  void write_some() { write(some); }

  SnapshotPtr capture_after(const SnapshotPtr& parent) {
    SnapshotPtr captured = unwrap(capture(parent, *machine, *disk));
    const auto made = clone(captured, clones);
    CHECK((copy_memory(*made.machine) == copy_memory(*machine)));  // not printed
    return captured;
  }
};

std::uint64_t pages(const ProcessMemory& memory, WhichPages which,
                    PageMethod method = PageMethod::automatic) {
  return bytes_of(unwrap(resident_pages(memory, which, method))) / page_size;
}

}  // namespace

TEST_CASE("a machine that has written much is captured by what it wrote since the last time", "[process]") {
  Capturing guest;
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
