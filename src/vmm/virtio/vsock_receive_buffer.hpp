// What the guest has sent and nobody has read yet: a ring of bytes that grows with its content. Its owner
// bounds it; memory is held only for what is in it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "vmm/virtio/queue.hpp"

namespace cube::vmm::virtio::vsock {

class ReceiveBuffer {
 public:
  std::size_t size() const { return size_; }

  /// Copies `length` bytes of guest buffers, from an offset on.
  void append(const std::vector<iovec>& buffers, std::size_t offset, std::size_t length) {
    reserve(size_ + length);
    while (length > 0) {
      const std::size_t at = (begin_ + size_) & (capacity_ - 1);
      const std::size_t piece = std::min(length, capacity_ - at);
      copy_from(buffers, offset, {bytes_.get() + at, piece});
      size_ += piece;
      offset += piece;
      length -= piece;
    }
  }

  std::size_t take(std::span<std::byte> out) {
    std::size_t taken = 0;
    while (taken < out.size() && size_ > 0) {
      const std::size_t piece = std::min({out.size() - taken, size_, capacity_ - begin_});
      std::memcpy(out.data() + taken, bytes_.get() + begin_, piece);
      begin_ = (begin_ + piece) & (capacity_ - 1);
      size_ -= piece;
      taken += piece;
    }
    if (size_ == 0 && capacity_ > kept_when_empty) clear();
    return taken;
  }

  void clear() {
    bytes_.reset();
    capacity_ = begin_ = size_ = 0;
  }

 private:
  static constexpr std::size_t least_capacity = 4096;
  static constexpr std::size_t kept_when_empty = 64u << 10;  // an idle connection holds no more than this

  void reserve(std::size_t bytes) {
    if (bytes <= capacity_) return;
    const std::size_t capacity = std::bit_ceil(std::max(bytes, least_capacity));
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    if (size_ > 0) {
      const std::size_t first = std::min(size_, capacity_ - begin_);
      std::memcpy(larger.get(), bytes_.get() + begin_, first);
      std::memcpy(larger.get() + first, bytes_.get(), size_ - first);
    }
    bytes_ = std::move(larger);
    capacity_ = capacity;
    begin_ = 0;
  }

  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_ = 0;  // a power of two, or nothing allocated
  std::size_t begin_ = 0;
  std::size_t size_ = 0;
};

}  // namespace cube::vmm::virtio::vsock
