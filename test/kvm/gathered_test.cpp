// Many clones of a snapshot whose layer is in many pieces.
#include "snapshots.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using cube::disk::test::unwrap;

TEST_CASE("of a snapshot that is cloned often small runs are shared, and every clone has the same memory") {
  constexpr std::uint64_t written = 768;  // pages, none beside another
  Writing guest("scattered");
  guest.write(written);
  const auto snapshot = unwrap(snapshot::capture(guest.first, *guest.machine, *guest.disk));
  const auto content = copy_memory(*guest.machine);

  const bool announced = GENERATE(false, true);
  constexpr std::size_t cloned = 6;
  if (announced) snapshot->expect_clones(cloned);
  std::vector<std::uint64_t> own;
  for (std::size_t i = 0; i < cloned; ++i) {
    Observer observer;
    const auto clone = guest.clone(snapshot, observer);
    CHECK((copy_memory(*clone.machine) == content));  // not printed
    own.push_back(snapshot::private_bytes(*clone.machine) / page_size);
    guest.write(*clone.machine, observer, written);  // nothing of what one writes is another's
    if (i + 1 < cloned) continue;
    const auto next = unwrap(snapshot::capture(snapshot, *clone.machine, *clone.disk));
    CHECK(next->depth() == snapshot->depth() + 1);
  }
  if (announced)
    CHECK(own.front() < written / 4);
  else
    CHECK(own.front() >= written);
  CHECK(own.back() < written / 4);
}
