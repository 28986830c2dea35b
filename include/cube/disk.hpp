// disk: copy-on-write block layers for virtual disks.
//
// A clone's disk is a shared, immutable base image plus the clusters it has written, kept in a sparse top
// layer that is created at the first write. freeze() turns the top into an immutable layer and starts a new
// one: it writes the allocation records and syncs, and copies no data. Needs no reflink file system, but one
// with O_TMPFILE to freeze (ext4, xfs, btrfs, tmpfs). Errors that the host causes (a full disk) are values;
// the guest sees an I/O error.
//
// The top is scratch: it ends with the process, so flush() has nothing to do and only freeze() makes data
// durable.
//
// Threads: one call at a time, from a worker; dirty_bytes() at any time, from any thread.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <memory>
#include <string>
#include <vector>

namespace cube::disk {

inline constexpr std::uint64_t cluster_size = 4096;

class CowDisk : public vmm::BlockBackend {
 public:
  /// `base` is opened read-only; `layers` are frozen ones, oldest first, checked before use (`corrupt`); the
  /// top is made as an unnamed file in `directory` at the first write and vanishes with the object.
  /// `capacity` is at least the base's size; what lies past its end reads as zeros.
  static Result<std::unique_ptr<CowDisk>> open(Fd base, std::vector<Fd> layers, std::uint64_t capacity,
                                               std::string directory);

  /// Gives the top layer a name, durable and its records checksummed, and starts a new one. No request may be
  /// in flight. `path` must not exist (`already_exists`) and lies on `directory`'s file system; if nothing
  /// was written since the last time it becomes an empty layer. After an error the top goes on as it was.
  virtual Result<void> freeze(const std::string& path) = 0;

  /// Bytes the top layer holds.
  virtual std::uint64_t dirty_bytes() const = 0;
};

/// A plain image file or block device written in place; for building templates.
Result<std::unique_ptr<vmm::BlockBackend>> open_raw_disk(Fd image);

}  // namespace cube::disk
