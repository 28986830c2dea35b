// Requests over lists of buffers: checks and slicing.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <cube/core.hpp>
#include <span>
#include <vector>

namespace cube::disk {

inline constexpr std::uint64_t sector_size = 512;

/// What errors of a disk's reads and writes are about.
inline constexpr const char* disk_file = "the disk's file";

/// The length of a request: whole sectors inside the disk, or `invalid_argument`.
Result<std::uint64_t> check_request(std::uint64_t offset, std::span<const iovec> buffers,
                                    std::uint64_t capacity);

/// Hands out the bytes of a buffer list piece by piece.
class BufferCursor {
 public:
  explicit BufferCursor(std::span<const iovec> buffers) : rest_(buffers) {}

  /// The next `length` bytes, valid until the next call. Precondition: there are that many.
  std::span<iovec> take(std::uint64_t length);

 private:
  std::span<const iovec> rest_;
  std::size_t used_of_first_ = 0;
  std::vector<iovec> piece_;
};

}  // namespace cube::disk
