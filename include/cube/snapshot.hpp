// snapshot: machines at rest. A snapshot is a directory with everything a clone is made from:
//
//   snapshot.json   format version, vCPUs, sizes, checksums of `state` and of itself; written last, so that
//                   without it there is no snapshot
//   state           the MachineState
//   memory          the guest's memory, pages of zeros as holes; clones map it MAP_PRIVATE
//   disk            the base image of the clones' disks (a file or a hard link to one)
//
// Directories are built aside under a temporary name, synced, then renamed: a half-written one is never taken
// for a snapshot, and left-overs are removed by `remove_leftovers` at start-up.
//
// The daemon owns the directory a snapshot lies in (mode 0700) and nobody else writes there: `memory` and
// `disk` are checked for their size only, because reading them would cost what cloning avoids, and truncating
// `memory` under a clone ends the process with SIGBUS.
//
// Everything here blocks and belongs on a worker.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <cube/disk.hpp>
#include <cube/vmm.hpp>
#include <memory>
#include <span>
#include <string>

namespace cube::snapshot {

struct Shape {
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;  ///< the capacity of /dev/vda
};

/// An opened snapshot; its files stay readable while it lives, even when the directory is removed.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  virtual const Shape& shape() const = 0;

  /// A paused machine that is a copy of the one that was saved: shares memory and disk with the snapshot
  /// until it writes. Its own disk blocks go to an unnamed file in `scratch_directory`. `config`'s
  /// vcpu_count, memory_bytes and root_disk are filled in here.
  virtual Result<std::unique_ptr<vmm::Machine>> clone(int kvm_fd, vmm::Executors executors,
                                                      vmm::MachineConfig config,
                                                      const std::string& scratch_directory) const = 0;
};

/// `not_found` without the directory; `corrupt` with the file and the reason if anything is missing, of the
/// wrong size or does not match its checksum; `conflict` for another format version.
Result<std::shared_ptr<const Snapshot>> open(const std::string& directory);

/// Writes a snapshot of a paused machine to `directory`, which must not exist. `disk_path` names the
/// machine's disk image, quiescent; it is hard-linked, so it must lie on the same file system and never be
/// written again. On an error (a full disk included) nothing is left behind.
Result<void> write(const std::string& directory, const Shape& shape, vmm::Machine& machine,
                   const std::string& disk_path);

/// Removes what an interrupted `write` or `remove` left in `parent`.
Result<void> remove_leftovers(const std::string& parent);

/// Renames the directory aside, then deletes it. Clones that map it live on. `not_found`.
Result<void> remove(const std::string& directory);

}  // namespace cube::snapshot
