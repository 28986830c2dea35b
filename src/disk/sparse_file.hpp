// Where a file has data and where it has holes, and the checksum of parts of it.
#pragma once

#include <cstdint>
#include <cube/core.hpp>

namespace cube::disk {

/// A piece of a file, whole clusters long.
struct Extent {
  std::uint64_t end = 0;
  bool is_hole = false;  ///< reads as zeros; data may, too
};

/// The extent that starts at `offset`, up to `limit` at most. Both lie on cluster boundaries.
Result<Extent> extent_at(int fd, std::uint64_t offset, std::uint64_t limit);

/// Continues a CRC-32C with the bytes from `offset` to `end`, also cluster boundaries. Holes are not read.
Result<std::uint32_t> checksum_range(int fd, std::uint64_t offset, std::uint64_t end, std::uint32_t previous);

}  // namespace cube::disk
