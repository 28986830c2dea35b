// Reading the memory of a machine's process through its /proc files.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cube/vmm.hpp>

#include "vmm/own_memory_files.hpp"

namespace cube::vmm {
namespace {

Error read_error(ssize_t count, int error) {
  if (count == 0) return make_error(ErrorCode::unavailable, "the machine's process is gone");
  Error failed = os_error(error, "cannot read the machine's memory");
  if (error == EIO || error == EFAULT) failed.code = ErrorCode::corrupt;
  return failed;
}

Result<void> read_all(int fd, std::uint64_t address, std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t count =
        retry_interrupted([&] { return ::pread(fd, into.data(), into.size(), static_cast<off_t>(address)); });
    if (count <= 0) return read_error(count, errno);
    into = into.subspan(static_cast<std::size_t>(count));
    address += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> clear_soft_dirty(int clear_refs) {
  if (retry_interrupted([&] { return ::write(clear_refs, "4", 1); }) == 1) return {};
  return os_error(errno, "cannot have writes to a machine's memory marked");
}

/// What a pagemap says of a page (Documentation/admin-guide/mm/pagemap.rst).
Result<std::uint64_t> pagemap_entry(int pagemap, std::uint64_t address) {
  std::uint64_t entry = 0;
  CUBE_TRY(read_exactly(pagemap, std::as_writable_bytes(std::span(&entry, 1)),
                        address / page_size * sizeof entry));
  return entry;
}

/// Without CONFIG_MEM_SOFT_DIRTY the bits can be cleared all the same, and are never set again. Tried on a
/// page of this process.
bool try_marking() {
  const auto files = OwnMemoryFiles::open();
  if (!files) return false;
  alignas(page_size) volatile std::byte page[page_size];
  const auto write = [&] { page[0] = std::byte{1}; };
  const auto marked = [&] {
    constexpr unsigned soft_dirty = 55;
    const auto entry = pagemap_entry(files->pagemap.get(), reinterpret_cast<std::uintptr_t>(&page));
    return entry.ok() && (*entry >> soft_dirty & 1) != 0;
  };
  write();
  const bool cleared = clear_soft_dirty(files->clear_refs.get()).ok() && !marked();
  write();
  return cleared && marked();
}

bool kernel_marks_writes() {
  static const bool marks = try_marking();
  return marks;
}

}  // namespace

Result<OwnMemoryFiles> OwnMemoryFiles::open() {
  auto memory = open_file("/proc/self/mem", O_RDONLY);
  if (!memory) return std::move(memory).error();
  auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  if (!pagemap) return std::move(pagemap).error();
  auto clear_refs = open_file("/proc/self/clear_refs", O_WRONLY);
  if (!clear_refs) return std::move(clear_refs).error();
  return OwnMemoryFiles{std::move(*memory), std::move(*pagemap), std::move(*clear_refs)};
}

Result<std::shared_ptr<const ProcessMemory>> ProcessMemory::open(
    std::span<const std::span<const std::byte>> regions) {
  auto files = OwnMemoryFiles::open();
  if (!files) return std::move(files).error();
  std::vector<Region> places;
  for (const auto region : regions)
    places.push_back({reinterpret_cast<std::uintptr_t>(region.data()), region.size()});
  return std::make_shared<const ProcessMemory>(std::move(files->memory), std::move(files->pagemap), Fd(),
                                               std::move(places));
}

std::uint64_t ProcessMemory::bytes() const {
  std::uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.bytes;
  return sum;
}

bool ProcessMemory::alive() const {
  return !regions_.empty() && pagemap_entry(pagemap_.get(), regions_.front().address).ok();
}

Result<void> ProcessMemory::read(std::uint64_t offset, std::span<std::byte> into) const {
  for (const Region& region : regions_) {
    if (into.empty()) return {};
    if (offset >= region.bytes) {
      offset -= region.bytes;
      continue;
    }
    const auto piece = into.first(std::min<std::uint64_t>(into.size(), region.bytes - offset));
    CUBE_TRY(read_all(memory_.get(), region.address + offset, piece));
    into = into.subspan(piece.size());
    offset = 0;
  }
  if (!into.empty()) return make_error(ErrorCode::invalid_argument, "a place outside the machine's memory");
  return {};
}

// Whatever comes of it, of what was written before nothing is known any more.
Result<std::uint64_t> ProcessMemory::forget_writes() const {
  if (!clear_refs_ || !kernel_marks_writes())
    return make_error(ErrorCode::unimplemented, "writes to this machine's memory cannot be told");
  const std::uint64_t moment = ++marked_since_;
  CUBE_TRY(clear_soft_dirty(clear_refs_.get()));
  return moment;
}

}  // namespace cube::vmm
