// snapshot: machines at rest, as layers that share what they have in common.
//
// A snapshot is a base image of memory and one of the disk, and on each of them layers of what was changed
// since, oldest first: template -> checkpoint -> checkpoint. All of it is immutable. A clone maps memory
// MAP_PRIVATE, so that its dirty pages are its private ones: nothing is tracked while it runs, and capturing
// costs what was changed, never the size of the machine.
//
// Published, a snapshot is a directory:
//
//   snapshot.json     format version, shape, sizes and checksums; written last, so that without it there is
//   no
//                     snapshot
//   state             the MachineState, with the host's CPU fingerprint and the device model's version inside
//   memory            the base image, pages of zeros as holes
//   memory.1 …        layers (disk.hpp has the format)
//   disk, disk.1 …    the same of the disk
//
// What snapshots have in common are hard links to the same files: the file system counts the references, and
// every directory stands for itself. A snapshot of the disk alone has neither `state` nor `memory`.
//
// Directories are built aside under a temporary name, synced, then renamed: a half-written one is never taken
// for a snapshot, and left-overs are removed by `remove_leftovers` at start-up. The daemon owns them (mode
// 0700) and nobody else writes there.
//
// Everything here blocks and belongs on a worker; it is safe from any of them.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <cube/disk.hpp>
#include <cube/vmm.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "snapshot/shell_pool.hpp"

namespace cube::snapshot {

struct Shape {
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;  ///< the capacity of /dev/vda
};

/// Asks a clone which pages it needed until now, so that the next ones have them before they start. Kept as
/// long as the clone may still tell.
class Witness {
 public:
  virtual ~Witness() = default;

  /// The first clones to come up count; then the first to have been used, whose further pages the next ones
  /// have when they are used, so that one that never is costs nothing of them.
  enum class Phase { came_up, used };

  /// Whether the snapshot still needs to be told.
  virtual bool wanted(Phase phase) const = 0;
  virtual void learn(const vmm::Machine& machine, Phase phase) = 0;
};

/// What a clone has before it runs.
enum class Readiness {
  to_come_up,  ///< of its working set what it needs to come up; the rest with Machine::expect_use()
  to_be_used,  ///< all of its working set
  to_go_on,    ///< and what the machine that was captured had written last: this one is at the same work
};

/// A machine and the disk it writes to, which freezes with it.
struct Clone {
  std::unique_ptr<vmm::Machine> machine;
  std::shared_ptr<disk::CowDisk> disk;
  std::shared_ptr<Witness> witness;  ///< of the few clones that are watched
};

/// Its files stay readable while it lives, even when every directory they were in is gone.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  virtual const Shape& shape() const = 0;
  virtual bool has_memory() const = 0;  ///< false: boot a machine from open_disk()

  /// Layers above the bases, the deeper of memory's and the disk's. What is deep is slow to read: merge().
  virtual std::size_t depth() const = 0;

  /// Reads the layers and the base image of memory against their checksums, once; afterwards it costs
  /// nothing. To be called before it is cloned. `corrupt` with the file.
  virtual Result<void> verify() const = 0;

  /// A paused machine that is a copy of the one that was captured. `config`'s vcpu_count, memory_bytes and
  /// root_disk are filled in here. `conflict` if this host cannot run it, with the reason.
  virtual Result<Clone> clone(ShellPool& shells, vmm::Executors executors, vmm::MachineConfig config,
                              Readiness readiness = Readiness::to_come_up) const = 0;

  /// So many clones are about to be made: the first does for all of them what otherwise each would.
  /// Waits for nothing.
  virtual void expect_clones(std::size_t count) const = 0;

  /// The disk alone, for a machine that is booted.
  virtual Result<std::shared_ptr<disk::CowDisk>> open_disk() const = 0;

  /// Writes the snapshot to `directory`, which must not exist, and returns when it is durable. On an error
  /// (a full disk included) nothing is left behind.
  virtual Result<void> publish(const std::string& directory) const = 0;

  /// publish() in the place of an existing snapshot, which is complete on disk until then.
  virtual Result<void> publish_over(const std::string& directory) const = 0;
};
using SnapshotPtr = std::shared_ptr<const Snapshot>;

/// `not_found` without the directory; `corrupt` with the file and the reason if anything is missing, of the
/// wrong size or says what cannot be; `conflict` for another format version. Clones' disks and the names that
/// keep files alive go to `scratch_directory`, on the same file system.
Result<SnapshotPtr> open(const std::string& directory, const std::string& scratch_directory);

/// A paused machine that was booted, on a disk whose image was written in place and never will be again.
Result<SnapshotPtr> capture_first(const Shape& shape, vmm::Machine& machine, Fd disk_image,
                                  const std::string& scratch_directory);

/// A paused machine that was cloned from `parent`, or booted from it if that has no memory, or whose last
/// capture `parent` is. Costs what was changed since; for a booted machine's first, all the memory it uses.
/// The machine may be resumed or destroyed afterwards; its next capture has this one as its parent. After an
/// error the old parent still is.
Result<SnapshotPtr> capture(const SnapshotPtr& parent, vmm::Machine& machine, disk::CowDisk& disk);

/// The disk alone; its file systems must be quiescent.
Result<SnapshotPtr> capture_disk(const SnapshotPtr& parent, disk::CowDisk& disk);

/// The same with at most one layer on each base, at the cost of copying what the layers hold.
Result<SnapshotPtr> merge(const SnapshotPtr& snapshot);

/// `later` with the layers of `before`, which it descends from, replaced by those of `before`'s merge; so is
/// what the disk of the machine that `later` is the last capture of reads from. No request may be in flight.
/// A `later` that does not descend from it (any more) is left as it is.
SnapshotPtr rebase(const SnapshotPtr& later, const SnapshotPtr& before, const SnapshotPtr& merged,
                   disk::CowDisk& disk);

/// Bytes of a machine's memory that are its own and not shared with its snapshot.
std::uint64_t private_bytes(const vmm::Machine& machine);

/// Removes what an interrupted publish or remove left in `parent`.
Result<void> remove_leftovers(const std::string& parent);

/// Start-up: removes what nobody knows, because a crash came between the snapshot and the store. Each is
/// logged as an unfinished `what`.
Result<void> remove_unknown(const std::string& parent, const std::function<bool(const std::string&)>& known,
                            std::string_view what);

/// Renames the directory aside, then deletes it. Who uses its files goes on. `not_found`.
Result<void> remove(const std::string& directory);

/// remove() of what may be gone already: a damaged snapshot may have lost its directory altogether.
Result<void> remove_if_there(const std::string& directory);

}  // namespace cube::snapshot
