// The process of one machine: what the daemon calls is done here.
#pragma once

#include <cube/core.hpp>
#include <functional>
#include <memory>

#include "vmm/shell.hpp"

namespace cube::vmm {

/// What a machine's process is wanted for.
struct ShellShape {
  std::uint64_t memory_bytes;
  std::uint64_t vcpu_count;  ///< at most max_vcpus
};

struct Order {
  Fd channel;
  ShellShape shape;
};

/// Confines the process, makes what any machine needs, and waits in `take_order` for what is wanted. Then
/// makes the shell and serves the calls that come on the channel until it ends; then the process does, and
/// with it the machine. To be called by a process with one thread.
[[noreturn]] void host_machine(const std::function<Order()>& take_order, Fd kvm,
                               std::shared_ptr<const HostProfile> host);

}  // namespace cube::vmm
