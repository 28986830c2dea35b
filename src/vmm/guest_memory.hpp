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
#include <vector>

#include "vmm/memory_guard.hpp"

namespace cube::vmm {

struct MemoryImage;

inline constexpr std::uint64_t mmio_gap_start = 3ull << 30;
inline constexpr std::uint64_t mmio_gap_end = 4ull << 30;

/// A stretch of guest-physical addresses backed by host memory.
struct MemoryRegion {
  std::uint64_t guest_address = 0;
  std::uint64_t image_offset = 0;
  std::span<std::byte> host;
};

class GuestMemory {
 public:
  /// Zeroed private memory, reserved but not populated. `bytes` is a multiple of the page size.
  static Result<GuestMemory> map_anonymous(std::uint64_t bytes);

  /// Replaces all of it with an image; KVM, which may have it as memory slots, follows through its MMU
  /// notifier. The base is mapped MAP_PRIVATE, above it at most 512 runs of at least 16 KiB, the largest; the
  /// others are copied. `corrupt` if the runs do not fit the memory, overlap, or a file is shorter than what
  /// is wanted of it.
  Result<void> map_image(const MemoryImage& image);

  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory& operator=(GuestMemory&& other) noexcept;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  std::uint64_t bytes() const { return mapping_.size(); }

  /// All of it, in the order of a memory image.
  std::span<std::byte> whole() const { return mapping_; }
  std::span<const MemoryRegion> regions() const { return {regions_.data(), region_count_}; }
  /// The regions' host memory.
  std::vector<std::span<const std::byte>> spans() const;

  /// Some of it could not be read and became zeros: its machine must end. Asked after the memory was touched.
  bool damaged() const { return guard_.damaged(); }

  /// Finds a truncated file that nobody on the host touched: KVM's instruction emulation takes its lost pages
  /// for missing memory, and the guest seems to be at fault. May block.
  void look_for_damage() const;

  /// Exactly `length` bytes from `guest_address`, all in one region, or `guest`. The guest may write them at
  /// any time: copy what must not change, once.
  Result<std::span<std::byte>> slice(std::uint64_t guest_address, std::uint64_t length) const;

 private:
  explicit GuestMemory(std::span<std::byte> mapping);

  std::span<std::byte> mapping_;
  MemoryGuard guard_;
  std::vector<const std::byte*> last_pages_;  ///< of each mapping of a file
  Fd exact_faults_;
  std::array<MemoryRegion, 2> regions_;
  std::size_t region_count_ = 0;
};

}  // namespace cube::vmm
