#include "vmm/guest_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cube/vmm.hpp>

#include "vmm/exact_faults.hpp"
#include "vmm/memory_image.hpp"

namespace cube::vmm {
namespace {

// Keeps a mapping out of the daemon's children and core dumps. A new mapping of a part needs it again.
void keep_private(std::span<std::byte> mapping) {
  // A fork of the daemon (to run a tool) must neither see guests nor make their pages copy-on-write.
  ::madvise(mapping.data(), mapping.size(), MADV_DONTFORK);
  // Nor does a guest's memory belong in a core dump.
  ::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
}

}  // namespace

Result<GuestMemory> GuestMemory::map_anonymous(std::uint64_t bytes) {
  if (bytes == 0 || bytes % page_size != 0)
    return make_error(ErrorCode::invalid_argument, "the memory size must be a multiple of 4096 bytes");
  void* address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return os_error(errno, "cannot reserve guest memory");
  const std::span mapping(static_cast<std::byte*>(address), bytes);
  keep_private(mapping);
  return GuestMemory(mapping);
}

Result<void> GuestMemory::map_image(const MemoryImage& image) {
  const auto plan = plan_image(image, bytes());
  if (!plan) return plan.error();
  for (const MemoryImage::Run& run : plan->mapped) {
    const auto target = mapping_.subspan(run.memory_offset, run.bytes);
    CUBE_TRY(map_file(target, run.fd, run.file_offset));
    last_pages_.push_back(target.last(page_size).data());
  }
  keep_private(mapping_);
  if (image.observed) exact_faults_ = make_faults_exact(mapping_);
  return copy_runs(mapping_, plan->copied);
}

GuestMemory::GuestMemory(std::span<std::byte> mapping) : mapping_(mapping), guard_(mapping) {
  const std::uint64_t low = std::min<std::uint64_t>(mapping.size(), mmio_gap_start);
  regions_[region_count_++] = {0, 0, mapping.first(low)};
  if (mapping.size() > low) regions_[region_count_++] = {mmio_gap_end, low, mapping.subspan(low)};
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : mapping_(std::exchange(other.mapping_, {})),
      guard_(std::move(other.guard_)),
      last_pages_(std::move(other.last_pages_)),
      exact_faults_(std::move(other.exact_faults_)),
      regions_(other.regions_),
      region_count_(std::exchange(other.region_count_, 0)) {}

GuestMemory& GuestMemory::operator=(GuestMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  guard_ = std::move(other.guard_);
  std::swap(last_pages_, other.last_pages_);
  std::swap(exact_faults_, other.exact_faults_);
  std::swap(regions_, other.regions_);
  std::swap(region_count_, other.region_count_);
  return *this;
}

GuestMemory::~GuestMemory() {
  guard_ = MemoryGuard();  // before something else is mapped there
  if (!mapping_.empty()) ::munmap(mapping_.data(), mapping_.size());
}

std::vector<std::span<const std::byte>> GuestMemory::spans() const {
  std::vector<std::span<const std::byte>> spans;
  for (const MemoryRegion& region : regions()) spans.emplace_back(region.host);
  return spans;
}

void GuestMemory::look_for_damage() const {
  for (const std::byte* page : last_pages_) static_cast<void>(*static_cast<const volatile std::byte*>(page));
}

Result<std::span<std::byte>> GuestMemory::slice(std::uint64_t guest_address, std::uint64_t length) const {
  for (const MemoryRegion& region : regions()) {
    if (guest_address < region.guest_address) continue;
    const std::uint64_t offset = guest_address - region.guest_address;
    if (offset <= region.host.size() && length <= region.host.size() - offset)
      return region.host.subspan(offset, length);
  }
  return make_error(ErrorCode::guest, "an address outside the guest's memory");
}

}  // namespace cube::vmm
