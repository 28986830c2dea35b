// The process of one machine: what the daemon calls is done here.
#pragma once

#include <cube/core.hpp>
#include <functional>
#include <memory>

#include "vmm/shell.hpp"

namespace cube::vmm {

/// Confines the process, makes what any machine needs, and waits in `take_order` for the channel of one. Then
/// serves the calls that come on it until it ends; then the process does, and with it the machine. To be
/// called by a process with one thread.
[[noreturn]] void host_machine(const std::function<Fd()>& take_order, Fd kvm,
                               std::shared_ptr<const HostProfile> host);

}  // namespace cube::vmm
