#include "core/vectored_io.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>

#include "core/fd.hpp"

namespace cube {
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

Result<void> read_vectored(int fd, std::span<iovec> into, std::uint64_t offset, std::string_view object) {
  for (into = skip(into, 0); !into.empty();) {
    const ssize_t count =
        retry_interrupted([&] { return ::preadv(fd, into.data(), batch(into), static_cast<off_t>(offset)); });
    if (count < 0) return os_error(errno, "cannot read", std::string(object));
    if (count == 0)
      return make_error(ErrorCode::corrupt, "the file ends before its data does", std::string(object));
    into = skip(into, static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> write_vectored(int fd, std::span<iovec> from, std::uint64_t offset, std::string_view object) {
  for (from = skip(from, 0); !from.empty();) {
    const ssize_t count = retry_interrupted(
        [&] { return ::pwritev(fd, from.data(), batch(from), static_cast<off_t>(offset)); });
    if (count < 0) return os_error(errno, "cannot write", std::string(object));
    if (count == 0) return os_error(EIO, "the file takes no more data", std::string(object));
    from = skip(from, static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

}  // namespace cube
