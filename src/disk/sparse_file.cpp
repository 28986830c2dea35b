#include "disk/sparse_file.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cube/disk.hpp>
#include <span>

namespace cube::disk {
namespace {

std::uint64_t round_down(std::uint64_t offset) { return offset / cluster_size * cluster_size; }
std::uint64_t round_up(std::uint64_t offset) { return round_down(offset + cluster_size - 1); }

}  // namespace

// Blocks of the file system may be smaller than clusters: a cluster that has any data is data.
Result<Extent> extent_at(int fd, std::uint64_t offset, std::uint64_t limit) {
  const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return Extent{limit, true};  // no data up to the file's end
  if (data < 0) return os_error(errno, "cannot find a file's data");
  if (const std::uint64_t end = round_down(static_cast<std::uint64_t>(data)); end > offset)
    return Extent{std::min(end, limit), true};

  const off_t hole = ::lseek(fd, data, SEEK_HOLE);
  if (hole < 0) return os_error(errno, "cannot find a file's holes");
  return Extent{std::min(round_up(static_cast<std::uint64_t>(hole)), limit), false};
}

Result<std::uint32_t> checksum_range(int fd, std::uint64_t offset, std::uint64_t end,
                                     std::uint32_t previous) {
  std::array<std::byte, 64 * 1024> buffer;  // stays in the processor's cache, unlike a larger one
  while (offset < end) {
    const auto extent = extent_at(fd, offset, end);
    if (!extent) return extent.error();
    if (extent->is_hole) {
      previous = crc32c_of_zeros(extent->end - offset, previous);
      offset = extent->end;
    }
    while (offset < extent->end) {
      const auto piece =
          std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), extent->end - offset));
      CUBE_TRY(read_exactly(fd, piece, offset));
      previous = crc32c(piece, previous);
      offset += piece.size();
    }
  }
  return previous;
}

}  // namespace cube::disk
