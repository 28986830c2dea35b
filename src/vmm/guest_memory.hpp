// GuestMemory: the guest's RAM, and the only way anything on the host touches it.
//
// Low RAM lies at [0, 3 GiB), the rest from 4 GiB: the gap between holds the devices' MMIO windows and the
// local APICs. In a memory image both follow each other without the gap.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <span>

namespace cube::vmm {

inline constexpr std::uint64_t mmio_gap_start = 3ull << 30;
inline constexpr std::uint64_t mmio_gap_end = 4ull << 30;

/// A stretch of guest-physical addresses backed by host memory.
struct MemoryRegion {
  std::uint64_t guest_address = 0;
  std::uint64_t image_offset = 0;
  std::span<std::byte> host;
};

/// Keeps a mapping out of the daemon's children and core dumps. A new mapping of a part needs it again.
void keep_private(std::span<std::byte> mapping);

class GuestMemory {
 public:
  /// Zeroed private memory, reserved but not populated. `bytes` is a multiple of the page size.
  static Result<GuestMemory> map_anonymous(std::uint64_t bytes);

  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory& operator=(GuestMemory&& other) noexcept;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  std::uint64_t bytes() const { return mapping_.size(); }

  /// All of it, in the order of a memory image.
  std::span<std::byte> whole() const { return mapping_; }
  std::span<const MemoryRegion> regions() const { return {regions_.data(), region_count_}; }

  /// Exactly `length` bytes from `guest_address`, all in one region, or `guest`. The guest may write them at
  /// any time: copy what must not change, once.
  Result<std::span<std::byte>> slice(std::uint64_t guest_address, std::uint64_t length) const;

 private:
  explicit GuestMemory(std::span<std::byte> mapping);

  std::span<std::byte> mapping_;
  std::array<MemoryRegion, 2> regions_;
  std::size_t region_count_ = 0;
};

}  // namespace cube::vmm
