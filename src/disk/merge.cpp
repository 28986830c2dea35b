// Merging goes from the newest layer to the oldest and copies what no newer one held, so that nothing is
// written twice.
#include <algorithm>
#include <cube/disk.hpp>
#include <vector>

#include "disk/allocation_bitmap.hpp"
#include "disk/sparse_file.hpp"

namespace cube::disk {
namespace {

constexpr std::uint64_t piece_bytes = 1 << 20;

Result<void> copy(const Layer& layer, std::uint64_t offset, std::uint64_t end, LayerWriter& into) {
  std::vector<std::byte> buffer;
  while (offset < end) {
    const auto extent = extent_at(layer.fd(), Layer::data_offset + offset, Layer::data_offset + end);
    if (!extent) return extent.error();
    const std::uint64_t extent_end = extent->end - Layer::data_offset;
    if (extent->is_hole) {
      CUBE_TRY(into.write_zeros(offset, extent_end - offset));
      offset = extent_end;
    }
    while (offset < extent_end) {
      buffer.resize(std::min(piece_bytes, extent_end - offset));
      CUBE_TRY(read_exactly(layer.fd(), buffer, Layer::data_offset + offset));
      CUBE_TRY(into.write(offset, buffer));
      offset += buffer.size();
    }
  }
  return {};
}

/// Copies what `merged` does not have of the run, and marks it there.
Result<void> add_run(const Layer& layer, std::uint64_t cluster, std::uint64_t end, AllocationBitmap& merged,
                     LayerWriter& into) {
  while (cluster < end) {
    const std::uint64_t first = cluster;
    const bool is_newer = merged.contains(first);
    do ++cluster;
    while (cluster < end && merged.contains(cluster) == is_newer);
    if (is_newer) continue;
    CUBE_TRY(copy(layer, first * cluster_size, cluster * cluster_size, into));
    merged.insert(first, cluster - first);
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const Layer>> merge_layers(std::span<const std::shared_ptr<const Layer>> layers,
                                                  const std::string& scratch_directory,
                                                  std::uint64_t capacity) {
  auto writer = LayerWriter::create(scratch_directory, capacity);
  if (!writer) return std::move(writer).error();
  AllocationBitmap merged;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    Result<void> added;
    (*layer)->for_each_run([&](std::uint64_t first, std::uint64_t count) {
      if (added) added = add_run(**layer, first, first + count, merged, **writer);
    });
    CUBE_TRY(added);
  }
  return (*writer)->finish();
}

}  // namespace cube::disk
