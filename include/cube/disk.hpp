// disk: copy-on-write block layers for virtual disks, and the files that layers of disks and of memory are.
//
// A clone's disk is a shared, immutable base image plus the clusters it has written, kept in a sparse top
// layer that is created at the first write. freeze() makes the top an immutable layer and starts a new one:
// it costs nothing that grows with the disk or with what was written. Needs no reflink file system. Errors
// that the host causes (a full disk) are values; the guest sees an I/O error.
//
// The top is scratch: it ends with the process, so flush() has nothing to do and only Layer::publish makes
// data durable.
//
// Threads: a CowDisk takes one call at a time, from a worker; dirty_bytes() at any time, from any thread.
// Layers and shared files are safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace cube::disk {

inline constexpr std::uint64_t cluster_size = 4096;

/// A file that several snapshots and machines use. It has a name in a scratch directory of ours, so that it
/// can be given further names (hard links) as long as the object lives, even when its other names are gone;
/// the scratch name goes with the object. What a crash leaves there is removed at the next start.
class SharedFile {
 public:
  /// A new empty file, open for reading and writing.
  static Result<std::shared_ptr<const SharedFile>> create(const std::string& scratch_directory);

  /// What is known of its content on disk. `lost`: a sync failed, and with it whatever it should have
  /// written.
  enum class State { written, durable, lost };

  /// An opened file of the same file system (`invalid_argument` if it is not).
  static Result<std::shared_ptr<const SharedFile>> adopt(Fd file, const std::string& scratch_directory,
                                                         State state = State::written);

  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  int fd() const;

  /// Makes what was written durable, once: nothing is written afterwards. The kernel reports a failed
  /// write-back once, and a later fsync would succeed over lost data: after an error every further attempt is
  /// refused.
  Result<void> sync() const;

  /// One more name, in an opened directory. Neither file nor directory is synced. `already_exists`.
  Result<void> link(int directory, const char* name) const;

 private:
  SharedFile(Fd file, std::string scratch_path, State state);

  Fd file_;
  std::string scratch_path_;
  mutable std::mutex syncing_;
  mutable State state_;
};

/// Removes the scratch names that a crash left in the directory, and nothing else; for start-up, before the
/// first SharedFile is made there. Goes on after errors and returns the first.
Result<void> remove_scratch_files(const std::string& scratch_directory);

/// The clusters written on top of what lies below, in a sparse file; of a disk, or of a machine's memory,
/// whose pages have the size of a cluster. Byte n of the disk lies at `data_offset` + n. A cluster that is
/// held but is a hole in the file is a cluster of zeros.
class Layer {
 public:
  static constexpr std::uint64_t data_offset = 4096;

  /// A published layer. `capacity` is that of the disk or memory, which bounds what the file may claim.
  /// Header and records are checked: `corrupt` with the reason. What the layer holds is not read.
  static Result<std::shared_ptr<const Layer>> open(std::shared_ptr<const SharedFile> file,
                                                   std::uint64_t capacity);
  virtual ~Layer() = default;

  /// Reads what a published layer holds against its checksum, once: `corrupt`. What this process has written
  /// needs no reading.
  virtual Result<void> verify() const = 0;

  virtual int fd() const = 0;
  virtual bool holds(std::uint64_t cluster) const = 0;
  virtual std::uint64_t held_clusters() const = 0;

  /// Calls `run(first cluster, count)` for each run of neighbouring clusters held, ascending.
  virtual void for_each_run(const std::function<void(std::uint64_t, std::uint64_t)>& run) const = 0;

  /// Completes the file (records, checksum, header; the first time only), syncs it and gives it a name in
  /// `directory`, which the caller syncs. After an error it may be tried again, unless a sync failed: then
  /// what the kernel kept is unknown and every further attempt is refused.
  virtual Result<void> publish(int directory, const char* name) const = 0;
};

/// Fills a new layer, for memory images and merging. One thread.
class LayerWriter {
 public:
  virtual ~LayerWriter() = default;
  static Result<std::unique_ptr<LayerWriter>> create(const std::string& scratch_directory,
                                                     std::uint64_t capacity);

  /// Whole clusters inside the capacity, in any order.
  virtual Result<void> write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  virtual Result<void> write_zeros(std::uint64_t offset, std::uint64_t length) = 0;  ///< stores nothing

  virtual std::shared_ptr<const Layer> finish() = 0;  ///< the writer is used up
};

/// One layer that holds what all of them do, the newest last; data is copied, zeros stay holes.
Result<std::shared_ptr<const Layer>> merge_layers(std::span<const std::shared_ptr<const Layer>> layers,
                                                  const std::string& scratch_directory,
                                                  std::uint64_t capacity);

class CowDisk : public vmm::BlockBackend {
 public:
  /// `layers` are oldest first. The top is made in `scratch_directory` at the first write.
  /// `capacity` is at least the base's size; what lies past its end reads as zeros.
  static Result<std::unique_ptr<CowDisk>> open(std::shared_ptr<const SharedFile> base,
                                               std::vector<std::shared_ptr<const Layer>> layers,
                                               std::uint64_t capacity, std::string scratch_directory);

  /// No request may be in flight. The top becomes an immutable layer, unless nothing was written.
  /// Returns all layers, oldest first.
  virtual std::vector<std::shared_ptr<const Layer>> freeze() = 0;

  /// No request may be in flight. Puts `merged` in place of the oldest `count` layers, which hold the same.
  virtual void replace_oldest(std::size_t count, std::shared_ptr<const Layer> merged) = 0;

  /// Bytes the top layer holds.
  virtual std::uint64_t dirty_bytes() const = 0;
};

/// A plain image file or block device written in place; for building templates.
Result<std::unique_ptr<vmm::BlockBackend>> open_raw_disk(Fd image);

}  // namespace cube::disk
