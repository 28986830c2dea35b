// The process of one machine: what the daemon calls is done here.
#pragma once

#include <cube/core.hpp>
#include <memory>

#include "vmm/shell.hpp"

namespace cube::vmm {

/// Serves the calls that come on `channel` until it ends; then the process does, and with it the machine.
/// To be called by a process with one thread.
[[noreturn]] void host_machine(Fd channel, Fd kvm, std::shared_ptr<const HostProfile> host);

}  // namespace cube::vmm
