// MemoryGuard: a damaged memory image ends the machines that use it, not the daemon.
//
// Touching a page of a mapped file raises SIGBUS in the thread that touches it if the file was truncated or
// its disk cannot be read. (What a vCPU touches makes KVM_RUN fail with EFAULT instead, and so do system
// calls.) The first guard installs a handler for the process: it looks the address up among the guarded
// ranges, replaces the range from that page on with zeros, so that the thread goes on, and marks the range
// damaged. Who touched the memory asks for that afterwards and gives the machine up. A SIGBUS anywhere else
// does what it did before.
#pragma once

#include <cstddef>
#include <span>

namespace cube::vmm {

class MemoryGuard {
 public:
  MemoryGuard() = default;
  /// The mapping outlives the guard, and nothing else is mapped there meanwhile but the machine's memory.
  explicit MemoryGuard(std::span<std::byte> mapping);
  MemoryGuard(MemoryGuard&& other) noexcept;
  MemoryGuard& operator=(MemoryGuard&& other) noexcept;
  ~MemoryGuard();

  bool damaged() const;

  struct Range;

 private:
  Range* range_ = nullptr;
};

}  // namespace cube::vmm
