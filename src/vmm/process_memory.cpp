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

}  // namespace

Result<OwnMemoryFiles> OwnMemoryFiles::open() {
  auto memory = open_file("/proc/self/mem", O_RDONLY);
  if (!memory) return std::move(memory).error();
  auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  if (!pagemap) return std::move(pagemap).error();
  return OwnMemoryFiles{std::move(*memory), std::move(*pagemap)};
}

Result<std::shared_ptr<const ProcessMemory>> ProcessMemory::open(
    std::span<const std::span<const std::byte>> regions) {
  auto files = OwnMemoryFiles::open();
  if (!files) return std::move(files).error();
  std::vector<Region> places;
  for (const auto region : regions)
    places.push_back({reinterpret_cast<std::uintptr_t>(region.data()), region.size()});
  return std::make_shared<const ProcessMemory>(std::move(files->memory), std::move(files->pagemap),
                                               std::move(places));
}

std::uint64_t ProcessMemory::bytes() const {
  std::uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.bytes;
  return sum;
}

bool ProcessMemory::alive() const {
  if (regions_.empty()) return false;
  std::uint64_t entry = 0;
  const std::uint64_t place = regions_.front().address / page_size * sizeof entry;
  return retry_interrupted([&] {
           return ::pread(pagemap_.get(), &entry, sizeof entry, static_cast<off_t>(place));
         }) == sizeof entry;
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

}  // namespace cube::vmm
