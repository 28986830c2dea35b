#include "disk/vectored_io.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>

namespace cube::disk {

Result<std::uint64_t> check_request(std::uint64_t offset, std::span<const iovec> buffers,
                                    std::uint64_t capacity) {
  if (offset > capacity) return make_error(ErrorCode::invalid_argument, "request starts past the disk's end");
  std::uint64_t length = 0;
  for (const iovec& buffer : buffers) {
    if (buffer.iov_len > capacity - offset - length)
      return make_error(ErrorCode::invalid_argument, "request reaches past the disk's end");
    length += buffer.iov_len;
  }
  if (offset % sector_size != 0 || length % sector_size != 0)
    return make_error(ErrorCode::invalid_argument, "request is not made of whole 512-byte sectors");
  return length;
}

std::span<iovec> BufferCursor::take(std::uint64_t length) {
  piece_.clear();
  while (length > 0) {
    const iovec& first = rest_.front();
    const std::size_t count = std::min<std::uint64_t>(first.iov_len - used_of_first_, length);
    if (count > 0) piece_.push_back({static_cast<std::byte*>(first.iov_base) + used_of_first_, count});
    used_of_first_ += count;
    length -= count;
    if (used_of_first_ == first.iov_len) {
      rest_ = rest_.subspan(1);
      used_of_first_ = 0;
    }
  }
  return piece_;
}

}  // namespace cube::disk
