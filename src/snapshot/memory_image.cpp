#include "snapshot/memory_image.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <cube/vmm.hpp>
#include <vector>

#include "snapshot/populated_pages.hpp"

namespace cube::snapshot {
namespace {

using vmm::page_size;

constexpr std::size_t most_pages_per_write = (1u << 20) / page_size;

bool is_zero(std::span<const std::byte> page) {
  for (std::size_t at = 0; at < page.size(); at += 64) {
    std::uint64_t words[8];
    std::memcpy(words, page.data() + at, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0)
      return false;
  }
  return true;
}

Result<void> write_region(int fd, std::span<const std::byte> region, const std::vector<bool>& populated,
                          std::uint64_t offset) {
  const std::size_t pages = region.size() / page_size;
  const auto holds_data = [&](std::size_t page) {
    return populated[page] && !is_zero(region.subspan(page * page_size, page_size));
  };
  for (std::size_t first = 0; first < pages;) {
    if (!holds_data(first)) {
      ++first;
      continue;
    }
    std::size_t end = first + 1;
    while (end < pages && end - first < most_pages_per_write && holds_data(end)) ++end;
    CUBE_TRY(write_exactly(fd, region.subspan(first * page_size, (end - first) * page_size),
                           offset + first * page_size));
    first = end;
  }
  return {};
}

}  // namespace

Result<void> write_memory_image(int fd, std::span<const std::span<const std::byte>> regions) {
  const auto pages = PopulatedPages::examine();
  std::uint64_t offset = 0;
  for (const auto region : regions) {
    if (reinterpret_cast<std::uintptr_t>(region.data()) % page_size != 0 || region.size() % page_size != 0)
      return make_error(ErrorCode::invalid_argument, "guest memory is not made of whole pages");
    CUBE_TRY(write_region(fd, region, pages.find(region), offset));
    offset += region.size();
  }
  if (::ftruncate(fd, static_cast<off_t>(offset)) != 0) return os_error(errno, "cannot set a file's size");
  return {};
}

}  // namespace cube::snapshot
