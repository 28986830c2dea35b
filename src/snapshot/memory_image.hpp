// Memory images: guest memory in a file, pages of zeros as holes.
#pragma once

#include <cstddef>
#include <cube/core.hpp>
#include <span>

namespace cube::snapshot {

/// Writes the regions one after another into an empty file. Each starts and ends on a page. Not synced.
Result<void> write_memory_image(int fd, std::span<const std::span<const std::byte>> regions);

}  // namespace cube::snapshot
