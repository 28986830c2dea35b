// The guest's side of a virtio device: memory, registers and rings, for tests. It can also break every rule.
#pragma once

#include <asio/io_context.hpp>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "vmm/virtio/device.hpp"
#include "vmm/virtio/queue.hpp"

namespace cube::vmm::virtio::test {

constexpr std::uint64_t version_1 = 1ull << 32;
constexpr std::uint64_t event_index = 1ull << 29;
constexpr std::uint64_t indirect_descriptors = 1ull << 28;

constexpr std::uint16_t next_flag = 1, write_flag = 2, indirect_flag = 4;

struct Descriptor {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};

struct Buffer {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  bool writable = false;
};

inline std::shared_ptr<const GuestMemory> make_memory(std::uint64_t bytes = 4 << 20) {
  return std::make_shared<const GuestMemory>(GuestMemory::map_anonymous(bytes).value());
}

/// Guest memory as the guest sees it.
class Ram {
 public:
  explicit Ram(std::shared_ptr<const GuestMemory> memory) : memory_(std::move(memory)) {}
  const std::shared_ptr<const GuestMemory>& memory() const { return memory_; }

  std::byte* at(std::uint64_t address, std::uint64_t length = 1) const {
    return memory_->slice(address, length).value().data();
  }
  template <class T>
  void store(std::uint64_t address, T value) const {
    __atomic_store_n(reinterpret_cast<T*>(at(address, sizeof value)), value, __ATOMIC_SEQ_CST);
  }
  template <class T>
  T load(std::uint64_t address) const {
    return __atomic_load_n(reinterpret_cast<T*>(at(address, sizeof(T))), __ATOMIC_SEQ_CST);
  }
  void write(std::uint64_t address, std::string_view bytes) const {
    std::memcpy(at(address, bytes.size()), bytes.data(), bytes.size());
  }
  std::string read(std::uint64_t address, std::size_t length) const {
    return {reinterpret_cast<const char*>(at(address, length)), length};
  }

 private:
  std::shared_ptr<const GuestMemory> memory_;
};

/// The driver's side of one queue.
class Ring {
 public:
  Ring(Ram ram, Queue::Layout layout) : ram_(std::move(ram)), layout_(layout) {}

  const Queue::Layout& layout() const { return layout_; }

  void describe(std::uint16_t index, const Descriptor& descriptor) const {
    std::memcpy(ram_.at(layout_.descriptors + 16 * index, 16), &descriptor, 16);
  }

  /// A chain that begins at descriptor `head`; the following ones are used in order.
  void add(const std::vector<Buffer>& buffers, std::uint16_t head = 0) {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const auto index = static_cast<std::uint16_t>(head + i);
      describe(index,
               {buffers[i].address, buffers[i].length,
                static_cast<std::uint16_t>((buffers[i].writable ? write_flag : 0) | (last ? 0 : next_flag)),
                static_cast<std::uint16_t>(index + 1)});
    }
    offer(head);
  }

  void offer(std::uint16_t head) {
    ram_.store<std::uint16_t>(layout_.available + 4 + 2 * (available_ % layout_.size), head);
    set_available(++available_);
  }
  void set_available(std::uint16_t index) const { ram_.store<std::uint16_t>(layout_.available + 2, index); }
  void set_used_event(std::uint16_t index) const {
    ram_.store<std::uint16_t>(layout_.available + 4 + 2 * layout_.size, index);
  }
  void set_no_interrupt(bool on) const { ram_.store<std::uint16_t>(layout_.available, on ? 1 : 0); }

  std::uint16_t used_index() const { return ram_.load<std::uint16_t>(layout_.used + 2); }
  std::uint16_t kick_event() const { return ram_.load<std::uint16_t>(layout_.used + 4 + 8 * layout_.size); }
  bool kicks_wanted() const { return ram_.load<std::uint16_t>(layout_.used) == 0; }

  struct Used {
    std::uint32_t head;
    std::uint32_t written;
  };
  std::optional<Used> take_used() {
    if (used_ == used_index()) return std::nullopt;
    const std::uint64_t entry = layout_.used + 4 + 8 * (used_++ % layout_.size);
    return Used{ram_.load<std::uint32_t>(entry), ram_.load<std::uint32_t>(entry + 4)};
  }

 private:
  Ram ram_;
  Queue::Layout layout_;
  std::uint16_t available_ = 0;
  std::uint16_t used_ = 0;
};

inline Queue::Layout layout_at(std::uint64_t address, std::uint16_t size) {
  return {size, address, address + 0x2000, address + 0x3000};
}

/// Where tests put their buffers.
constexpr std::uint64_t data_area = 0x100000;

struct Registers {
  static constexpr std::uint64_t magic = 0x000, version = 0x004, device_id = 0x008, device_features = 0x010,
                                 device_features_select = 0x014, driver_features = 0x020,
                                 driver_features_select = 0x024, queue_select = 0x030, queue_size_max = 0x034,
                                 queue_size = 0x038, queue_ready = 0x044, notify = 0x050,
                                 interrupt_status = 0x060, interrupt_acknowledge = 0x064, status = 0x070,
                                 descriptors = 0x080, available = 0x090, used = 0x0a0, config = 0x100;
};

/// A device, its machine, and the driver that talks to it. Nothing runs but in `settle`.
class Driver {
 public:
  explicit Driver(std::shared_ptr<const GuestMemory> memory = make_memory()) : ram(std::move(memory)) {}
  ~Driver() {
    if (device) device->shut_down();
    context.restart();
    context.poll();
  }

  Attachment attachment() {
    return {ram.memory(), [this] { ++interrupts; },
            [this](Error error) {
              ++errors;
              last_error = std::move(error);
            }};
  }

  std::uint32_t read(std::uint64_t offset) const {
    std::uint32_t value = 0;
    device->read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void write(std::uint64_t offset, std::uint32_t value) const {
    device->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  template <class T>
  T config(std::uint64_t offset) const {
    T value{};
    device->read(Registers::config + offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::uint32_t status() const { return read(Registers::status); }
  void add_status(std::uint32_t bit) const { write(Registers::status, status() | bit); }

  std::uint64_t offered() const {
    write(Registers::device_features_select, 1);
    const std::uint64_t high = read(Registers::device_features);
    write(Registers::device_features_select, 0);
    return high << 32 | read(Registers::device_features);
  }
  void accept(std::uint64_t features) const {
    write(Registers::driver_features_select, 0);
    write(Registers::driver_features, static_cast<std::uint32_t>(features));
    write(Registers::driver_features_select, 1);
    write(Registers::driver_features, static_cast<std::uint32_t>(features >> 32));
  }
  void set_queue(std::uint32_t index, const Queue::Layout& layout) const {
    write(Registers::queue_select, index);
    write(Registers::queue_size, layout.size);
    const auto address = [&](std::uint64_t offset, std::uint64_t value) {
      write(offset, static_cast<std::uint32_t>(value));
      write(offset + 4, static_cast<std::uint32_t>(value >> 32));
    };
    address(Registers::descriptors, layout.descriptors);
    address(Registers::available, layout.available);
    address(Registers::used, layout.used);
    write(Registers::queue_ready, 1);
  }

  void negotiate(std::uint64_t features) const {
    write(Registers::status, 0);
    add_status(1);
    add_status(2);
    accept(features);
    add_status(8);
  }

  /// Up to DRIVER_OK, with `queue_count` queues of `size` in `rings`.
  void start(std::size_t queue_count, std::uint64_t features = version_1, std::uint16_t size = 16) {
    negotiate(features);
    rings.clear();
    for (std::size_t i = 0; i < queue_count; ++i) {
      rings.emplace_back(ram, layout_at(0x10000 * (i + 1), size));
      set_queue(static_cast<std::uint32_t>(i), rings.back().layout());
    }
    add_status(4);
    device->resume();
    settle();
  }

  void kick(std::uint32_t queue) const { write(Registers::notify, queue); }
  void settle() {
    context.restart();
    context.poll();
  }
  void run(std::uint32_t queue) {
    kick(queue);
    settle();
  }

  asio::io_context context;
  Ram ram;
  std::vector<Ring> rings;
  std::atomic<int> interrupts = 0;
  std::atomic<int> errors = 0;
  Error last_error;
  std::shared_ptr<MmioDevice> device;
};

}  // namespace cube::vmm::virtio::test
