// Snapshots of the tiny guests.
#pragma once

#include <cube/snapshot.hpp>

#include "../unit/disk_files.hpp"
#include "host.hpp"

namespace cube::vmm::test {

/// Of a paused machine that was booted, with a disk of a page which it does not have; its files go to
/// `directory`.
inline snapshot::SnapshotPtr capture_booted(Machine& machine,
                                            const cube::test::TemporaryDirectory& directory) {
  snapshot::Shape shape;
  shape.vcpu_count = 1;
  shape.memory_bytes = guest_memory_bytes;
  shape.disk_bytes = page_size;
  auto disk = open_file(directory / "disk", O_RDWR | O_CREAT);
  REQUIRE(disk.ok());
  REQUIRE(::ftruncate(disk->get(), page_size) == 0);
  return disk::test::unwrap(snapshot::capture_first(shape, machine, std::move(*disk), directory.path));
}

}  // namespace cube::vmm::test
