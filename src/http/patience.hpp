// Patience: how long a client may keep us waiting for a body.
//
// The waits add up, and what arrives earns time: so a client can neither rest for long nor trickle for ever,
// while the time we take ourselves, or a slow reader behind us, is not held against it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "http/event.hpp"

namespace cube::http {

class Patience {
 public:
  Patience() = default;  ///< endless
  explicit Patience(std::chrono::seconds limit) : limit_(limit), left_(limit), limited_(true) {}

  /// A wait begins, to last no longer than until then.
  SteadyTime begin_wait() {
    if (!limited_) return SteadyTime::max();
    begun_ = std::chrono::steady_clock::now();
    return begun_ + left_;
  }
  void end_wait() {
    if (limited_) left_ -= std::chrono::steady_clock::now() - begun_;
  }
  void received(std::size_t bytes) {
    if (limited_) left_ = std::min<Duration>(limit_, left_ + bytes * per_byte);
  }
  bool exhausted() const { return limited_ && left_ <= Duration::zero(); }

 private:
  using Duration = std::chrono::steady_clock::duration;

  static constexpr Duration per_byte = std::chrono::milliseconds(1);  // 1 kB/s: slower than any modem

  Duration limit_{};
  Duration left_{};
  bool limited_ = false;
  SteadyTime begun_;
};

}  // namespace cube::http
