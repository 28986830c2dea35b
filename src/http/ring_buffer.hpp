// RingBuffer: a fixed number of bytes between one reader and one writer. Space handed out by writable() stays
// where it is while the reader consumes, so a socket read may be outstanding into it.
#pragma once

#include <algorithm>
#include <asio/buffer.hpp>
#include <cstddef>
#include <memory>
#include <string_view>

namespace cube::http {

class RingBuffer {
 public:
  explicit RingBuffer(std::size_t capacity)
      : capacity_(capacity), bytes_(std::make_unique_for_overwrite<char[]>(capacity)) {}

  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == capacity_; }

  /// The first contiguous piece of what was written and not consumed.
  std::string_view readable() const { return {bytes_.get() + head_, std::min(size_, capacity_ - head_)}; }
  void consume(std::size_t count) {
    head_ = (head_ + count) % capacity_;
    size_ -= count;
  }

  /// A contiguous piece of free space; empty only when full.
  asio::mutable_buffer writable() {
    if (size_ == 0) head_ = 0;  // the memory that was touched already
    const std::size_t tail = (head_ + size_) % capacity_;
    return {bytes_.get() + tail, std::min(capacity_ - size_, capacity_ - tail)};
  }
  void commit(std::size_t count) { size_ += count; }

 private:
  std::size_t capacity_;
  std::unique_ptr<char[]> bytes_;  ///< not cleared: an idle connection touches none of it
  std::size_t head_ = 0;
  std::size_t size_ = 0;
};

}  // namespace cube::http
