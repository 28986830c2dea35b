// What the file of a published layer looks like:
//
//   0        header, one page
//   4096     the data: byte n of the disk at 4096 + n, whatever was written when
//   records  after the highest cluster held: one ChunkRecord per chunk of the allocation bitmap in use
//
// Data never moves: publishing adds the records and the header. The header has a checksum of the clusters
// held, in ascending order, holes as the zeros they are; and one of itself and the records. What lies in
// clusters that are not held has no meaning. Numbers are little-endian.
#pragma once

#include <cstdint>
#include <cube/core.hpp>

#include "disk/allocation_bitmap.hpp"

namespace cube::disk {

/// Of a disk or memory, in bytes. ext4's largest file has 16 TiB, and a layer has more than its data.
inline constexpr std::uint64_t most_capacity = 8ull << 40;

/// A cluster at the capacity's end counts as a whole one.
std::uint64_t clusters_of(std::uint64_t capacity);

struct LayerFile {
  AllocationBitmap allocated;
  std::uint32_t data_crc32c = 0;
};

/// Reads and checks all but the data. Everything it says is checked, also when the checksum is right.
/// `corrupt` with the reason.
Result<LayerFile> read_layer_file(int fd, std::uint64_t capacity);

/// Reads the data: `corrupt` if it is not what it was.
Result<void> verify_layer_data(int fd, const LayerFile& expected);

/// Writes records and header behind and before the data, and cuts the file behind them. Not synced. May be
/// repeated after a failure.
Result<void> complete_layer_file(int fd, const AllocationBitmap& allocated, std::uint64_t capacity);

}  // namespace cube::disk
