// Memory images: a machine's memory in files, base and layers, and what a machine has changed of one.
#pragma once

#include <cstddef>
#include <cube/core.hpp>
#include <cube/disk.hpp>
#include <cube/vmm.hpp>
#include <span>
#include <vector>

#include "snapshot/files.hpp"
#include "snapshot/resident_pages.hpp"

namespace cube::snapshot {

/// Writes memory that nothing was mapped into to an empty file, pages of zeros as holes. Its checksum. Not
/// synced.
Result<std::uint32_t> write_base_image(int fd, const vmm::ProcessMemory& memory);

/// CRC32C over index and content of every page that is not all zeros, ascending; where the file has holes
/// makes no difference.
Result<std::uint32_t> checksum_base_image(int fd, std::uint64_t bytes);

/// An image's base and layers as one.
class MemoryView {
 public:
  /// The newest layer counts for each page.
  MemoryView(FilePtr base, const Layers& layers, std::uint64_t bytes);

  std::span<const vmm::MemoryImage::Run> runs() const { return runs_; }
  int base_fd() const { return base_->fd(); }

  /// The image's bytes from `offset` on.
  Result<void> read(std::uint64_t offset, std::span<std::byte> into) const;

 private:
  FilePtr base_;
  Layers layers_;  // own the runs' descriptors
  std::vector<vmm::MemoryImage::Run> runs_;
};

struct Changes {
  std::shared_ptr<const disk::Layer> layer;
  std::uint64_t unchanged_bytes = 0;  ///< that were read and held what `parent` does
};

/// What memory mapped from `parent` now holds that `parent` does not. Costs reading the pages that may, its
/// own or those of them that are marked, once, and writing those that differ.
Result<Changes> collect_changes(const MemoryView& parent, const vmm::ProcessMemory& memory, WhichPages which,
                                const std::string& scratch_directory);

}  // namespace cube::snapshot
