#include "snapshot/resident_pages.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace cube::snapshot {
namespace {

using vmm::page_size;
using vmm::PageRun;

using Region = vmm::ProcessMemory::Region;

constexpr const char* pagemap_file = "the pagemap of a machine";

// --- PAGEMAP_SCAN, include/uapi/linux/fs.h; the headers of older distributions lack it ---

constexpr std::uint64_t category_file = 1u << 2;
constexpr std::uint64_t category_present = 1u << 3;
constexpr std::uint64_t category_swapped = 1u << 4;
constexpr std::uint64_t category_soft_dirty = 1u << 7;

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

Result<void> scan(int pagemap, const Region& memory, std::uint64_t image_offset, WhichPages which,
                  Runs& runs) {
  std::array<ScannedRegion, 1024> regions;
  ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = memory.address;
  arguments.end = memory.address + memory.bytes;
  arguments.vec = reinterpret_cast<std::uintptr_t>(regions.data());
  arguments.vec_len = regions.size();
  arguments.category_anyof_mask = category_present | category_swapped;
  arguments.return_mask = category_file;
  if (which != WhichPages::present) arguments.category_inverted = arguments.category_mask = category_file;
  if (which == WhichPages::marked) arguments.category_mask |= category_soft_dirty;

  while (arguments.start < arguments.end) {
    const int count = ::ioctl(pagemap, pagemap_scan, &arguments);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_error(errno, "PAGEMAP_SCAN failed", pagemap_file);
    for (const ScannedRegion& region : std::span(regions).first(static_cast<std::size_t>(count)))
      runs.add(image_offset + region.start - memory.address, region.end - region.start,
               (region.categories & category_file) == 0);
    arguments.start = arguments.walk_end;
  }
  return {};
}

// --- Documentation/admin-guide/mm/pagemap.rst ---

constexpr std::uint64_t bit_present = 1ull << 63;
constexpr std::uint64_t bit_swapped = 1ull << 62;
constexpr std::uint64_t bit_file = 1ull << 61;
constexpr std::uint64_t bit_soft_dirty = 1ull << 55;

Result<void> read_pagemap(int pagemap, const Region& memory, std::uint64_t image_offset, WhichPages which,
                          Runs& runs) {
  const std::uint64_t needed = which == WhichPages::marked ? bit_soft_dirty : 0;
  const std::uint64_t first = memory.address / page_size;
  const std::uint64_t pages = memory.bytes / page_size;
  std::array<std::uint64_t, 4096> entries;
  for (std::uint64_t done = 0; done < pages;) {
    const auto chunk = std::span(entries).first(std::min<std::uint64_t>(pages - done, entries.size()));
    CUBE_TRY(read_exactly(pagemap, std::as_writable_bytes(chunk), (first + done) * sizeof(std::uint64_t)));
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      const bool own = (chunk[i] & bit_file) == 0;
      if ((chunk[i] & (bit_present | bit_swapped)) != 0 && (own || which == WhichPages::present) &&
          (chunk[i] & needed) == needed)
        runs.add(image_offset + (done + i) * page_size, page_size, own);
    }
    done += chunk.size();
  }
  return {};
}

template <class Method>
Result<std::vector<PageRun>> collect(const vmm::ProcessMemory& memory, WhichPages which, Method method) {
  Runs runs;
  std::uint64_t image_offset = 0;
  for (const Region& region : memory.regions()) {
    CUBE_TRY(method(memory.pagemap_fd(), region, image_offset, which, runs));
    image_offset += region.bytes;
  }
  if (!memory.alive()) return make_error(ErrorCode::unavailable, "the machine's process is gone");
  return runs.take();
}

}  // namespace

Result<std::vector<PageRun>> resident_pages(const vmm::ProcessMemory& memory, WhichPages which,
                                            PageMethod method) {
  if (method != PageMethod::pagemap) {
    auto runs = collect(memory, which, scan);
    if (runs || method == PageMethod::scan) return runs;
    if (runs.error().os_errno != ENOTTY && runs.error().os_errno != EINVAL) return runs;
  }
  return collect(memory, which, read_pagemap);
}

std::uint64_t bytes_of(std::span<const PageRun> runs) {
  std::uint64_t bytes = 0;
  for (const PageRun& run : runs) bytes += run.bytes;
  return bytes;
}

}  // namespace cube::snapshot
