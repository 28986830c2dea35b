#include "snapshot/resident_pages.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace cube::snapshot {
namespace {

using vmm::page_size;
using vmm::PageRun;

constexpr const char* pagemap_path = "/proc/self/pagemap";

// --- PAGEMAP_SCAN, include/uapi/linux/fs.h; the headers of older distributions lack it ---

constexpr std::uint64_t category_file = 1u << 2;
constexpr std::uint64_t category_present = 1u << 3;
constexpr std::uint64_t category_swapped = 1u << 4;

struct ScannedRegion {
  std::uint64_t start, end, categories;
};
struct ScanArguments {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
static_assert(sizeof(ScanArguments) == 96);
constexpr unsigned long pagemap_scan = _IOWR('f', 16, ScanArguments);

/// Collects runs, joining neighbours of the same kind.
class Runs {
 public:
  void add(std::uint64_t offset, std::uint64_t bytes, bool written) {
    if (!runs_.empty() && runs_.back().offset + runs_.back().bytes == offset &&
        runs_.back().written == written)
      runs_.back().bytes += bytes;
    else
      runs_.push_back({offset, bytes, written});
  }
  std::vector<PageRun> take() { return std::move(runs_); }

 private:
  std::vector<PageRun> runs_;
};

Result<std::vector<PageRun>> scan(int pagemap, std::span<const std::byte> memory, bool own_only) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
  std::array<ScannedRegion, 1024> regions;
  ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = begin;
  arguments.end = begin + memory.size();
  arguments.vec = reinterpret_cast<std::uintptr_t>(regions.data());
  arguments.vec_len = regions.size();
  arguments.category_anyof_mask = category_present | category_swapped;
  arguments.return_mask = category_file;
  if (own_only) arguments.category_inverted = arguments.category_mask = category_file;

  Runs runs;
  while (arguments.start < arguments.end) {
    const int count = ::ioctl(pagemap, pagemap_scan, &arguments);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_error(errno, "PAGEMAP_SCAN failed", pagemap_path);
    for (const ScannedRegion& region : std::span(regions).first(static_cast<std::size_t>(count)))
      runs.add(region.start - begin, region.end - region.start, (region.categories & category_file) == 0);
    arguments.start = arguments.walk_end;
  }
  return runs.take();
}

// --- Documentation/admin-guide/mm/pagemap.rst ---

constexpr std::uint64_t bit_present = 1ull << 63;
constexpr std::uint64_t bit_swapped = 1ull << 62;
constexpr std::uint64_t bit_file = 1ull << 61;

Result<std::vector<PageRun>> read_pagemap(int pagemap, std::span<const std::byte> memory, bool own_only) {
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(memory.data()) / page_size;
  const std::uint64_t pages = memory.size() / page_size;
  std::array<std::uint64_t, 4096> entries;
  Runs runs;
  for (std::uint64_t done = 0; done < pages;) {
    const auto chunk = std::span(entries).first(std::min<std::uint64_t>(pages - done, entries.size()));
    CUBE_TRY(read_exactly(pagemap, std::as_writable_bytes(chunk), (first + done) * sizeof(std::uint64_t)));
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      const bool own = (chunk[i] & bit_file) == 0;
      if ((chunk[i] & (bit_present | bit_swapped)) != 0 && (own || !own_only))
        runs.add((done + i) * page_size, page_size, own);
    }
    done += chunk.size();
  }
  return runs.take();
}

}  // namespace

Result<std::vector<PageRun>> resident_pages(std::span<const std::byte> memory, bool own_only,
                                            PageMethod method) {
  const auto pagemap = open_file(pagemap_path, O_RDONLY);
  if (!pagemap) return pagemap.error();
  if (method != PageMethod::pagemap) {
    auto runs = scan(pagemap->get(), memory, own_only);
    if (runs || method == PageMethod::scan) return runs;
    if (runs.error().os_errno != ENOTTY && runs.error().os_errno != EINVAL) return runs;
  }
  return read_pagemap(pagemap->get(), memory, own_only);
}

}  // namespace cube::snapshot
