#include "snapshot/populated_pages.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cube/vmm.hpp>
#include <string>
#include <string_view>

namespace cube::snapshot {
namespace {

// Documentation/admin-guide/mm/pagemap.rst
constexpr std::uint64_t page_present = 1ull << 63;
constexpr std::uint64_t page_swapped = 1ull << 62;

constexpr std::size_t most_maps_bytes = 64u << 20;

}  // namespace

PopulatedPages PopulatedPages::examine() {
  PopulatedPages pages;
  const auto maps = read_file("/proc/self/maps", most_maps_bytes);
  auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  if (!maps || !pagemap) return pages;
  pages.pagemap_ = std::move(pagemap).value();

  // "begin-end rwxp offset major:minor inode  path": inode 0 is no file, 's' is shared memory.
  for (std::string_view rest = *maps; !rest.empty();) {
    const std::string line(rest.substr(0, rest.find('\n')));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char sharing = 0;
    std::uint64_t inode = 0;
    const int fields = std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %*3c%c %*x %*x:%*x %" SCNu64,
                                   &begin, &end, &sharing, &inode);
    if (fields == 4 && sharing == 'p' && inode == 0) pages.anonymous_.push_back({begin, end});
  }
  return pages;
}

std::vector<bool> PopulatedPages::find(std::span<const std::byte> memory) const {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uintptr_t end = begin + memory.size();
  std::vector<bool> populated(memory.size() / vmm::page_size, true);

  std::array<std::uint64_t, 4096> entries;
  for (const Range& range : anonymous_) {
    const std::uintptr_t last = std::min(range.end, end);
    for (std::uintptr_t at = std::max(range.begin, begin); at < last;) {
      const std::size_t count = std::min<std::size_t>((last - at) / vmm::page_size, entries.size());
      const std::span chunk(entries.data(), count);
      if (!read_exactly(pagemap_.get(), std::as_writable_bytes(chunk),
                        at / vmm::page_size * sizeof(std::uint64_t)))
        return std::vector<bool>(populated.size(), true);
      for (std::size_t i = 0; i < count; ++i)
        populated[(at - begin) / vmm::page_size + i] = (chunk[i] & (page_present | page_swapped)) != 0;
      at += count * vmm::page_size;
    }
  }
  return populated;
}

}  // namespace cube::snapshot
