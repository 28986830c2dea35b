// RingBuffer: a fixed number of bytes between one reader and one writer. Space handed out by writable() stays
// where it is while the reader consumes, so a socket read may be outstanding into it.
#pragma once

#include <algorithm>
#include <asio/buffer.hpp>
#include <cstddef>
#include <string_view>
#include <vector>

namespace cube::http {

class RingBuffer {
 public:
  explicit RingBuffer(std::size_t capacity) : bytes_(capacity) {}

  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == bytes_.size(); }

  /// The first contiguous piece of what was written and not consumed.
  std::string_view readable() const {
    return {bytes_.data() + head_, std::min(size_, bytes_.size() - head_)};
  }
  void consume(std::size_t count) {
    head_ = (head_ + count) % bytes_.size();
    size_ -= count;
  }

  /// A contiguous piece of free space; empty only when full.
  asio::mutable_buffer writable() {
    const std::size_t tail = (head_ + size_) % bytes_.size();
    return {bytes_.data() + tail, std::min(bytes_.size() - size_, bytes_.size() - tail)};
  }
  void commit(std::size_t count) { size_ += count; }

 private:
  std::vector<char> bytes_;
  std::size_t head_ = 0;
  std::size_t size_ = 0;
};

}  // namespace cube::http
