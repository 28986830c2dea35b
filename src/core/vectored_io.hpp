// Whole transfers between a file and a list of buffers: EINTR, short counts, IOV_MAX.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "core/result.hpp"

namespace cube {

/// The whole list or an error, which names `object`; the list is used up. A file that ends early is
/// `corrupt`.
Result<void> read_vectored(int fd, std::span<iovec> into, std::uint64_t offset, std::string_view object);
Result<void> write_vectored(int fd, std::span<iovec> from, std::uint64_t offset, std::string_view object);

}  // namespace cube
