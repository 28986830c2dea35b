// A guest for tests of virtio-vsock: the driver's side of the rings in real GuestMemory, kicks by the rules
// of the event index, packets in and out. What it sends is up to the test.
#pragma once

#include <array>
#include <asio/io_context.hpp>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "vmm/guest_memory.hpp"
#include "vmm/virtio/device.hpp"
#include "vmm/virtio/vsock_packet.hpp"

namespace cube::vmm::virtio::test {

constexpr std::uint64_t guest_cid = 3;

/// The driver's side of one split virtqueue. Chains of up to two descriptors; their number is the chain's
/// name.
class DriverQueue {
 public:
  static constexpr std::uint16_t size = 128;
  static constexpr std::uint16_t chains = size / 2;

  struct Buffer {
    std::uint64_t address;
    std::uint32_t length;
    bool writable;
  };
  struct Used {
    std::uint16_t chain;
    std::uint32_t written;
  };

  DriverQueue(const GuestMemory& memory, std::uint64_t base) : base_(base) {
    host_ = memory.slice(base, 0x3000).value().data();
    for (std::uint16_t i = 0; i < chains; ++i) free_.push_back(i);
  }

  std::uint64_t descriptors() const { return base_; }
  std::uint64_t available() const { return base_ + 0x1000; }
  std::uint64_t used() const { return base_ + 0x2000; }

  bool has_free() const { return !free_.empty(); }
  std::uint16_t next_free() const { return free_.front(); }

  void add(const std::vector<Buffer>& buffers) {
    const std::uint16_t chain = free_.front();
    free_.pop_front();
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const auto index = static_cast<std::uint16_t>(chain * 2 + i);
      const bool last = i + 1 == buffers.size();
      std::byte* at = host_ + index * 16;
      const std::uint16_t flags = static_cast<std::uint16_t>((last ? 0 : 1) | (buffers[i].writable ? 2 : 0));
      const std::uint16_t next = last ? 0 : static_cast<std::uint16_t>(index + 1);
      std::memcpy(at, &buffers[i].address, 8);
      std::memcpy(at + 8, &buffers[i].length, 4);
      std::memcpy(at + 12, &flags, 2);
      std::memcpy(at + 14, &next, 2);
    }
    const auto head = static_cast<std::uint16_t>(chain * 2);
    store16(0x1000 + 4 + available_index_ % size * 2, head);
    store16(0x1000 + 2, ++available_index_);
  }

  /// Whether the device wants a kick for what was added since the last call. Virtio 1.2, section 2.7.10.
  bool needs_kick(bool event_index) {
    __sync_synchronize();
    const std::uint16_t before = std::exchange(kicked_index_, available_index_);
    if (before == available_index_) return false;
    if (!event_index) return (load16(0x2000) & 1) == 0;
    const std::uint16_t event = load16(0x2000 + 4 + size * 8);
    return static_cast<std::uint16_t>(available_index_ - event - 1) <
           static_cast<std::uint16_t>(available_index_ - before);
  }

  std::optional<Used> next_used() {
    if (load16(0x2000 + 2) == used_index_) return std::nullopt;
    const std::byte* entry = host_ + 0x2000 + 4 + used_index_ % size * 8;
    std::uint32_t head = 0, written = 0;
    head = __atomic_load_n(reinterpret_cast<const std::uint32_t*>(entry), __ATOMIC_RELAXED);
    written = __atomic_load_n(reinterpret_cast<const std::uint32_t*>(entry + 4), __ATOMIC_RELAXED);
    ++used_index_;
    store16(0x1000 + 4 + size * 2, used_index_);  // used_event: interrupt at the next
    __sync_synchronize();
    const auto chain = static_cast<std::uint16_t>(head / 2 % chains);  // fuzzers overwrite rings
    free_.push_back(chain);
    return Used{chain, written};
  }

  /// Continues on the same rings in another memory, as a restored guest does.
  void move_to(const GuestMemory& memory) { host_ = memory.slice(base_, 0x3000).value().data(); }

 private:
  void store16(std::size_t offset, std::uint16_t value) {
    __atomic_store_n(reinterpret_cast<std::uint16_t*>(host_ + offset), value, __ATOMIC_RELEASE);
  }
  std::uint16_t load16(std::size_t offset) const {
    return __atomic_load_n(reinterpret_cast<const std::uint16_t*>(host_ + offset), __ATOMIC_ACQUIRE);
  }

  std::uint64_t base_;
  std::byte* host_;
  std::deque<std::uint16_t> free_;
  std::uint16_t available_index_ = 0;
  std::uint16_t kicked_index_ = 0;
  std::uint16_t used_index_ = 0;
};

struct Packet {
  vsock::Header header;
  std::string payload;
};

class VsockGuest {
 public:
  static constexpr std::uint64_t memory_bytes = 24ull << 20;
  static constexpr std::uint32_t slot_bytes = 68u << 10;  // of each chain's buffer
  static constexpr std::uint64_t rx_buffers = 1ull << 20;
  static constexpr std::uint64_t tx_buffers = 8ull << 20;
  static constexpr std::uint64_t event_buffers = 16ull << 20;

  enum : std::size_t { rx, tx, event };

  explicit VsockGuest(asio::io_context& loop, bool with_event_index = true)
      : memory(std::make_shared<const GuestMemory>(GuestMemory::map_anonymous(memory_bytes).value())),
        queues{DriverQueue(*memory, 0x10000), DriverQueue(*memory, 0x20000), DriverQueue(*memory, 0x30000)},
        event_index(with_event_index) {
    device = make(loop);
  }

  /// The device of a restored copy: the same rings, in memory of its own.
  VsockGuest(asio::io_context& loop, const VsockGuest& original, const std::string& state)
      : memory(std::make_shared<const GuestMemory>(GuestMemory::map_anonymous(memory_bytes).value())),
        queues(original.queues),
        event_index(original.event_index),
        rx_bytes(original.rx_bytes) {
    std::memcpy(bytes_at(0, memory_bytes), original.bytes_at(0, memory_bytes), memory_bytes);
    for (DriverQueue& queue : queues) queue.move_to(*memory);
    device = make(loop);
    if (const auto restored = device->restore(state); !restored.ok())
      throw std::runtime_error(restored.error().describe());
    device->resume();
  }

  ~VsockGuest() { device->shut_down(); }
  VsockGuest& operator=(const VsockGuest&) = delete;

  /// What Linux does when it finds the device.
  void start(std::size_t receive_buffers = DriverQueue::chains, std::uint32_t receive_buffer_bytes = 4096) {
    rx_bytes = receive_buffer_bytes;
    for (const std::uint32_t status : {0u, 1u, 3u}) set(0x070, status);
    set(0x024, 0);
    set(0x020, event_index ? 1u << 29 : 0);
    set(0x024, 1);
    set(0x020, 1);
    set(0x070, 11);
    for (std::uint32_t i = 0; i < 3; ++i) {
      set(0x030, i);
      set(0x038, DriverQueue::size);
      set(0x080, static_cast<std::uint32_t>(queues[i].descriptors()));
      set(0x090, static_cast<std::uint32_t>(queues[i].available()));
      set(0x0a0, static_cast<std::uint32_t>(queues[i].used()));
      set(0x044, 1);
    }
    set(0x070, 15);
    for (int i = 0; i < 8; ++i) give_event_buffer();
    kick(event);
    give_receive_buffers(receive_buffers);
  }

  void set(std::uint64_t offset, std::uint32_t value) {
    device->write(offset, std::as_bytes(std::span(&value, 1)));
  }

  void kick(std::size_t index) {
    if (queues[index].needs_kick(event_index)) {
      ++kicks;
      set(0x050, static_cast<std::uint32_t>(index));
    }
  }

  void give_receive_buffers(std::size_t count) {
    for (; count > 0 && queues[rx].has_free(); --count)
      queues[rx].add({{rx_buffers + queues[rx].next_free() * slot_bytes, rx_bytes, true}});
    kick(rx);
  }

  void give_event_buffer() { queues[event].add({{event_buffers + queues[event].next_free() * 8u, 8, true}}); }

  /// The next packet from the host. Its buffer goes back unless `keep`.
  std::optional<Packet> receive(bool keep = false) {
    const auto used = queues[rx].next_used();
    if (!used) return std::nullopt;
    const std::byte* bytes = bytes_at(rx_buffers + used->chain * slot_bytes, used->written);
    Packet packet;
    if (used->written < sizeof packet.header) throw std::runtime_error("a packet without a header");
    std::memcpy(&packet.header, bytes, sizeof packet.header);
    packet.payload.assign(reinterpret_cast<const char*>(bytes) + sizeof packet.header,
                          used->written - sizeof packet.header);
    if (!keep) give_receive_buffers(1);
    return packet;
  }

  /// A header to the host with the addresses of this guest and plenty of credit.
  static vsock::Header header(vsock::Op op, std::uint32_t guest_port, std::uint32_t host_port) {
    vsock::Header header;
    header.source_cid = guest_cid;
    header.destination_cid = vsock::host_cid;
    header.source_port = guest_port;
    header.destination_port = host_port;
    header.op = op;
    header.buffer_size = 1u << 20;
    return header;
  }

  /// Sends bytes as they are; the chain breaks after `first` bytes. False if the ring is full.
  bool send_raw(std::string_view bytes, std::size_t first) {
    while (queues[tx].next_used()) {
    }
    if (!queues[tx].has_free()) return false;
    const std::uint64_t at = tx_buffers + queues[tx].next_free() * slot_bytes;
    std::memcpy(bytes_at(at, slot_bytes), bytes.data(), bytes.size());
    std::vector<DriverQueue::Buffer> buffers;
    if (first > 0 && first < bytes.size())
      buffers.push_back({at, static_cast<std::uint32_t>(first), false});
    else
      first = 0;
    buffers.push_back({at + first, static_cast<std::uint32_t>(bytes.size() - first), false});
    queues[tx].add(buffers);
    kick(tx);
    return true;
  }

  bool send(vsock::Header header, std::string_view payload = {}) {
    header.length = static_cast<std::uint32_t>(payload.size());
    return send_exactly(header, payload);
  }

  /// Also what a liar would send.
  bool send_exactly(const vsock::Header& header, std::string_view payload = {}, std::size_t first = 44) {
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes += payload;
    return send_raw(bytes, first);
  }

  std::byte* bytes_at(std::uint64_t address, std::uint64_t length) const {
    return memory->slice(address, length).value().data();
  }

  std::shared_ptr<const GuestMemory> memory;
  std::array<DriverQueue, 3> queues;
  const bool event_index;
  std::uint32_t rx_bytes = 4096;
  std::shared_ptr<VsockDevice> device;
  std::size_t kicks = 0;
  std::atomic<std::size_t> interrupts = 0;
  std::function<void()> on_interrupt;
  std::optional<Error> failure;

 private:
  std::shared_ptr<VsockDevice> make(asio::io_context& loop) {
    return make_vsock_device({memory,
                              [this] {
                                ++interrupts;
                                if (on_interrupt) on_interrupt();
                              },
                              [this](Error error) { failure = std::move(error); }},
                             loop.get_executor(), guest_cid);
  }
};

}  // namespace cube::vmm::virtio::test
