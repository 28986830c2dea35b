// What is made of a MemoryImage: which of its runs are mapped, which copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <span>
#include <vector>

namespace cube::vmm {

struct ImagePlan {
  std::vector<MemoryImage::Run> mapped;  ///< in this order: the base, whole, then the runs above it
  std::vector<MemoryImage::Run> copied;  ///< in the order of their files
};

/// Checks the image: `corrupt` if the runs do not fit the memory, overlap, or a file is shorter than what is
/// wanted of it, since touching a mapping past its file's end raises SIGBUS.
Result<ImagePlan> plan_image(const MemoryImage& image, std::uint64_t memory_bytes);

/// Replaces a part of the memory with a private mapping of a file.
Result<void> map_file(std::span<std::byte> part, int fd, std::uint64_t offset);

/// Reads the runs to their places, neighbours in a file in one call.
Result<void> copy_runs(std::span<std::byte> memory, std::span<const MemoryImage::Run> runs);

}  // namespace cube::vmm
