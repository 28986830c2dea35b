// A layer: the clusters written on top of what lies below, in a sparse file.
//
//   0        header, one page; only frozen layers have it written
//   4096     the data: byte n of the disk at 4096 + n, whatever was written when
//   records  after the highest cluster held: one ChunkRecord per chunk of the allocation bitmap in use
//
// Data never moves when a layer is frozen: freezing adds the records and the header. The checksum covers the
// header and the records, not the data, so that opening costs nothing that grows with the data.
// Numbers are little-endian.
#pragma once

#include <cstdint>
#include <cube/core.hpp>

#include "disk/allocation_bitmap.hpp"

namespace cube::disk {

inline constexpr std::uint64_t layer_data_offset = 4096;

struct Layer {
  Fd file;
  AllocationBitmap allocated;
};

/// Reads and checks a frozen layer; `capacity` is the disk's, which bounds what the file may claim.
/// `corrupt` with the reason.
Result<Layer> open_layer(Fd file, std::uint64_t capacity);

/// Writes records and header and cuts the file behind them. Not synced. May be repeated after a failure.
Result<void> seal_layer(const Layer& layer, std::uint64_t capacity);

}  // namespace cube::disk
