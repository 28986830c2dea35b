// Requests over lists of buffers: checks, slicing, and whole transfers (EINTR, short counts, IOV_MAX).
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <cube/core.hpp>
#include <span>
#include <vector>

namespace cube::disk {

inline constexpr std::uint64_t sector_size = 512;

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

/// The whole list or an error; the list is consumed. A file that ends early is `corrupt`.
Result<void> read_vectored(int fd, std::span<iovec> into, std::uint64_t offset);
Result<void> write_vectored(int fd, std::span<iovec> from, std::uint64_t offset);

}  // namespace cube::disk
