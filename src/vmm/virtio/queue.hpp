// Queue: the device's side of one split virtqueue (virtio 1.2, section 2.7).
//
// Everything in the rings is hostile. Addresses and sizes are checked once, at activation, and frozen; every
// descriptor is read once; a chain has at most `size` descriptors; an available index that runs further ahead
// than the queue is long is an error, never a loop. An error means the guest broke the rules: the machine ends.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <cube/core.hpp>
#include <memory>
#include <vector>

#include "vmm/guest_memory.hpp"

namespace cube::vmm::virtio {

inline constexpr std::uint16_t max_queue_size = 256;

/// The buffers of one request, inside guest memory. The guest may change their bytes at any time.
struct Chain {
  std::uint16_t head = 0;
  std::vector<iovec> readable;  ///< what the driver sends
  std::vector<iovec> writable;  ///< where the answer goes
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
};

class Queue {
 public:
  /// Guest-physical addresses of the three parts.
  struct Layout {
    std::uint16_t size = 0;
    std::uint64_t descriptors = 0;
    std::uint64_t available = 0;
    std::uint64_t used = 0;
  };

  /// Where both sides stand; what a snapshot needs beside the layout.
  struct Position {
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled_used = 0;  ///< the used index at the last interrupt
  };

  /// `guest` if the size is no power of two or over the maximum, a part is misaligned or not in RAM, or parts
  /// overlap each other.
  Result<void> activate(std::shared_ptr<const GuestMemory> memory, const Layout& layout, bool event_index,
                        Position position);
  void deactivate();
  bool active() const { return memory_ != nullptr; }

  const Layout& layout() const { return layout_; }
  Position position() const { return position_; }

  /// Takes the next chain (indirect tables included) into `chain`, whose vectors are reused. False if there is
  /// none. `guest` if the ring, an address or a chain breaks the rules.
  Result<bool> pop(Chain& chain);

  /// Puts the last popped chain back: it will be popped again. For devices that wait for something else.
  void undo_pop();

  /// Returns a chain to the driver; `written` bytes of its writable buffers were filled.
  void push(std::uint16_t head, std::uint32_t written);

  /// Whether the driver wants an interrupt for what was pushed since the last call.
  bool needs_interrupt();

  /// Asks the driver for kicks again; true if something came in meanwhile (the caller goes on draining).
  bool enable_kicks();
  void disable_kicks();

 private:
  std::shared_ptr<const GuestMemory> memory_;
  Layout layout_;
  Position position_;
  bool event_index_ = false;
  std::byte* descriptors_ = nullptr;
  std::byte* available_ = nullptr;
  std::byte* used_ = nullptr;
};

/// Copies between a chain's buffers and host memory from an offset on; the number of bytes copied.
std::size_t copy_from(const std::vector<iovec>& buffers, std::size_t offset, std::span<std::byte> out);
std::size_t copy_to(const std::vector<iovec>& buffers, std::size_t offset, std::span<const std::byte> in);

/// The part of `buffers` that begins at `offset` and holds at most `length` bytes.
std::vector<iovec> slice_buffers(const std::vector<iovec>& buffers, std::size_t offset, std::size_t length);

}  // namespace cube::vmm::virtio
