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

/// A paused machine of a guest that writes to one page after another, each time with an exit, and counts;
/// captured when it had begun.
struct Writing {
  Host host;
  cube::test::TemporaryDirectory directory;
  Observer observer;
  snapshot::ShellPool shells{host.shells, host.workers.get_executor(), 0};
  std::unique_ptr<Machine> machine;
  std::uint64_t count = 0;  ///< the address of how much it has written
  snapshot::SnapshotPtr first;
  std::shared_ptr<disk::CowDisk> disk;

  explicit Writing(const char* guest) : machine(boot(host, observer, guest)) {
    REQUIRE(machine->resume().ok());
    REQUIRE(observer.wait_for_text("count at "));
    count = number_after(observer.console(), "count at ");
    REQUIRE(machine->pause().ok());
    first = capture_booted(*machine, directory);
    disk = disk::test::unwrap(first->open_disk());
  }

  void write(std::uint64_t times) { write(*machine, observer, times); }

  void write(Machine& which, Observer& its, std::uint64_t times) const {
    const std::uint64_t before = word_at(which, count);
    REQUIRE(which.resume().ok());
    wait_until_above(which, its, count, before + times);
    REQUIRE(which.pause().ok());
  }

  snapshot::Clone clone(const snapshot::SnapshotPtr& snapshot, Observer& its,
                        snapshot::Readiness readiness = snapshot::Readiness::to_come_up) {
    MachineConfig config;
    its.attach(config);
    return disk::test::unwrap(snapshot->clone(shells, host.executors(), std::move(config), readiness));
  }
};

}  // namespace cube::vmm::test
