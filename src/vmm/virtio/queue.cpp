#include "vmm/virtio/queue.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>

namespace cube::vmm::virtio {
namespace {

// Section 2.7.5 to 2.7.8: a descriptor, and the two rings (flags, index, entries, event index).
struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

constexpr std::uint16_t descriptor_next = 1;
constexpr std::uint16_t descriptor_write = 2;
constexpr std::uint16_t descriptor_indirect = 4;

constexpr std::uint16_t available_no_interrupt = 1;
constexpr std::uint16_t used_no_notify = 1;

constexpr std::size_t ring_index = 2;
constexpr std::size_t ring_entries = 4;
constexpr std::size_t available_entry_bytes = 2;
constexpr std::size_t used_entry_bytes = 8;

template <class T>
T load(const std::byte* address, int order = __ATOMIC_RELAXED) {
  return __atomic_load_n(reinterpret_cast<const T*>(address), order);
}

template <class T>
void store(std::byte* address, T value, int order = __ATOMIC_RELAXED) {
  __atomic_store_n(reinterpret_cast<T*>(address), value, order);
}

// std::atomic_thread_fence is refused by g++ under -fsanitize=thread.
void full_fence() { __sync_synchronize(); }

// The guest may change the bytes meanwhile, and the compiler must not fetch them again.
void read_once(void* to, const std::byte* from, std::size_t length) {
  std::memcpy(to, from, length);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

Descriptor read_descriptor(const std::byte* address) {
  return std::bit_cast<Descriptor>(
      std::array{load<std::uint64_t>(address), load<std::uint64_t>(address + 8)});
}

Error broken(std::string message) { return make_error(ErrorCode::guest, "virtqueue: " + std::move(message)); }

struct Part {
  std::uint64_t address;
  std::uint64_t bytes;
  std::uint64_t alignment;
  std::byte* host = nullptr;
};

bool overlap(const Part& a, const Part& b) {
  return a.address < b.address + b.bytes && b.address < a.address + a.bytes;
}

Result<void> append(Chain& chain, const GuestMemory& memory, const Descriptor& descriptor) {
  const bool writable = (descriptor.flags & descriptor_write) != 0;
  if (!writable && !chain.writable.empty()) return broken("a readable buffer after a writable one");
  if (descriptor.length == 0) return {};
  const auto host = memory.slice(descriptor.address, descriptor.length);
  if (!host) return broken("a buffer outside memory");
  constexpr std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
  if (chain.readable_bytes + chain.writable_bytes + descriptor.length > most)
    return broken("a request of 4 GiB or more");
  (writable ? chain.writable : chain.readable).push_back({host->data(), host->size()});
  (writable ? chain.writable_bytes : chain.readable_bytes) += descriptor.length;
  return {};
}

struct Table {
  const std::byte* host;
  std::uint32_t entries;
};

// Section 2.7.5.3. A table may be larger than the queue: Linux checks only its segment limit.
Result<Table> indirect_table(const GuestMemory& memory, const Descriptor& descriptor) {
  const std::uint32_t entries = descriptor.length / sizeof(Descriptor);
  if ((descriptor.flags & descriptor_next) != 0) return broken("a descriptor after an indirect table");
  if (entries == 0 || entries > max_queue_size || descriptor.length % sizeof(Descriptor) != 0)
    return broken("an indirect table of a wrong size");
  if (descriptor.address % alignof(Descriptor) != 0) return broken("a misaligned indirect table");
  const auto host = memory.slice(descriptor.address, descriptor.length);
  if (!host) return broken("an indirect table outside memory");
  return Table{host->data(), entries};
}

}  // namespace

Result<void> Queue::activate(std::shared_ptr<const GuestMemory> memory, const Layout& layout,
                             bool event_index, Position position) {
  if (!std::has_single_bit(layout.size) || layout.size > max_queue_size)
    return broken("a size that is no power of two or too large");
  const std::uint64_t size = layout.size;
  std::array<Part, 3> parts = {{
      {layout.descriptors, sizeof(Descriptor) * size, 16},
      {layout.available, ring_entries + available_entry_bytes * size + 2, 2},
      {layout.used, ring_entries + used_entry_bytes * size + 2, 4},
  }};
  for (Part& part : parts) {
    if (part.address % part.alignment != 0) return broken("a misaligned part");
    const auto host = memory->slice(part.address, part.bytes);
    if (!host) return broken("a part outside memory");
    part.host = host->data();
  }
  if (overlap(parts[0], parts[1]) || overlap(parts[0], parts[2]) || overlap(parts[1], parts[2]))
    return broken("overlapping parts");

  memory_ = std::move(memory);
  layout_ = layout;
  position_ = position;
  event_index_ = event_index;
  descriptors_ = parts[0].host;
  available_ = parts[1].host;
  used_ = parts[2].host;
  return {};
}

void Queue::deactivate() { *this = Queue(); }

Result<bool> Queue::pop(Chain& chain) {
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;

  const auto waiting = static_cast<std::uint16_t>(
      load<std::uint16_t>(available_ + ring_index, __ATOMIC_ACQUIRE) - position_.next_available);
  if (waiting == 0) return false;
  if (waiting > layout_.size) return broken("more requests than the queue is long");
  const std::size_t slot = position_.next_available % layout_.size;
  chain.head = load<std::uint16_t>(available_ + ring_entries + slot * available_entry_bytes);

  Table table{descriptors_, layout_.size};
  bool inside_indirect = false;  // not told by the table's address: it may be the queue's own
  std::uint32_t index = chain.head;
  for (std::uint32_t left = table.entries; left > 0; --left) {
    if (index >= table.entries) return broken("a descriptor index past the end of its table");
    const Descriptor descriptor = read_descriptor(table.host + index * sizeof descriptor);
    if ((descriptor.flags & descriptor_indirect) != 0) {
      if (std::exchange(inside_indirect, true)) return broken("an indirect table inside another");
      const auto indirect = indirect_table(*memory_, descriptor);
      if (!indirect) return indirect.error();
      table = *indirect;
      index = 0;
      left = table.entries + 1;
      continue;
    }
    CUBE_TRY(append(chain, *memory_, descriptor));
    if ((descriptor.flags & descriptor_next) == 0) {
      ++position_.next_available;
      return true;
    }
    index = descriptor.next;
  }
  return broken("a chain that never ends");
}

void Queue::undo_pop() { --position_.next_available; }

void Queue::push(std::uint16_t head, std::uint32_t written) {
  std::byte* entry = used_ + ring_entries + position_.next_used % layout_.size * used_entry_bytes;
  store<std::uint32_t>(entry, head);
  store<std::uint32_t>(entry + 4, written);
  store<std::uint16_t>(used_ + ring_index, ++position_.next_used, __ATOMIC_RELEASE);
}

bool Queue::needs_interrupt() {
  const std::uint16_t before = std::exchange(position_.signalled_used, position_.next_used);
  const auto pushed = static_cast<std::uint16_t>(position_.next_used - before);
  if (pushed == 0) return false;
  full_fence();  // the driver reads the used index after it wrote what is read here
  if (!event_index_) return (load<std::uint16_t>(available_) & available_no_interrupt) == 0;
  // Section 2.7.10: interrupt if the used index went past used_event.
  const auto used_event =
      load<std::uint16_t>(available_ + ring_entries + layout_.size * available_entry_bytes);
  return static_cast<std::uint16_t>(position_.next_used - used_event - 1) < pushed;
}

bool Queue::enable_kicks() {
  if (event_index_)
    store<std::uint16_t>(used_ + ring_entries + layout_.size * used_entry_bytes, position_.next_available);
  else
    store<std::uint16_t>(used_, 0);
  full_fence();  // the driver reads it after it wrote the available index
  return load<std::uint16_t>(available_ + ring_index, __ATOMIC_ACQUIRE) != position_.next_available;
}

void Queue::disable_kicks() {
  // With event indices the last one asked for is behind already.
  if (!event_index_) store<std::uint16_t>(used_, used_no_notify);
}

std::size_t copy_from(const std::vector<iovec>& buffers, std::size_t offset, std::span<std::byte> out) {
  std::size_t copied = 0;
  for (const iovec& buffer : buffers) {
    if (copied == out.size()) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t length = std::min(buffer.iov_len - offset, out.size() - copied);
    read_once(out.data() + copied, static_cast<const std::byte*>(buffer.iov_base) + offset, length);
    copied += length;
    offset = 0;
  }
  return copied;
}

std::size_t copy_to(const std::vector<iovec>& buffers, std::size_t offset, std::span<const std::byte> in) {
  std::size_t copied = 0;
  for (const iovec& buffer : buffers) {
    if (copied == in.size()) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t length = std::min(buffer.iov_len - offset, in.size() - copied);
    std::memcpy(static_cast<std::byte*>(buffer.iov_base) + offset, in.data() + copied, length);
    copied += length;
    offset = 0;
  }
  return copied;
}

std::vector<iovec> slice_buffers(const std::vector<iovec>& buffers, std::size_t offset, std::size_t length) {
  std::vector<iovec> part;
  for (const iovec& buffer : buffers) {
    if (length == 0) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t taken = std::min(buffer.iov_len - offset, length);
    part.push_back({static_cast<std::byte*>(buffer.iov_base) + offset, taken});
    length -= taken;
    offset = 0;
  }
  return part;
}

}  // namespace cube::vmm::virtio
