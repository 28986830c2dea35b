// The floor under a restore: only the ioctls and mmaps that one needs, in the best order, with none of
// cubed's code.
#pragma once

#include <cstdint>
#include <memory>

#include "steps.hpp"

namespace cube::bench {

/// Restores virtual machines that do nothing, from the state that a new one has.
class BareRestore {
 public:
  /// Ends the program if KVM refuses anything.
  BareRestore(int kvm_fd, unsigned vcpu_count, std::uint64_t memory_bytes, int image_fd);
  ~BareRestore();

  /// Times each step of one restore and of its end.
  void run(Steps& restore, Steps& destroy);

 private:
  struct Vm;
  struct State;

  void create(Vm& vm, Steps& steps);
  void fill(Vm& vm, Steps& steps);
  static void destroy(Vm& vm, Steps& steps);

  const int kvm_fd_;
  const unsigned vcpu_count_;
  const std::uint64_t memory_bytes_;
  const int image_fd_;
  std::unique_ptr<State> state_;
};

}  // namespace cube::bench
