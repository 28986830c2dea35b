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

namespace {

std::span<iovec> skip(std::span<iovec> buffers, std::size_t count) {
  while (!buffers.empty() && count >= buffers.front().iov_len) {
    count -= buffers.front().iov_len;
    buffers = buffers.subspan(1);
  }
  if (count > 0) {
    iovec& first = buffers.front();
    first.iov_base = static_cast<std::byte*>(first.iov_base) + count;
    first.iov_len -= count;
  }
  return buffers;
}

int batch(std::span<const iovec> buffers) {
  return static_cast<int>(std::min<std::size_t>(buffers.size(), IOV_MAX));
}

}  // namespace

Result<void> read_vectored(int fd, std::span<iovec> into, std::uint64_t offset) {
  for (into = skip(into, 0); !into.empty();) {
    const ssize_t count = ::preadv(fd, into.data(), batch(into), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_error(errno, "cannot read the disk's file");
    if (count == 0) return make_error(ErrorCode::corrupt, "the disk's file ends before its data does");
    into = skip(into, static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> write_vectored(int fd, std::span<iovec> from, std::uint64_t offset) {
  for (from = skip(from, 0); !from.empty();) {
    const ssize_t count = ::pwritev(fd, from.data(), batch(from), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_error(errno, "cannot write the disk's file");
    if (count == 0) return os_error(EIO, "the disk's file takes no more data");
    from = skip(from, static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

}  // namespace cube::disk
