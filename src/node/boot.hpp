// How every guest is booted: when a template is built, and when a sandbox comes back that was kept without
// its memory.
#pragma once

#include <cube/vmm.hpp>
#include <string>

namespace cube::node {

/// Blocks. The machine is created paused.
Result<std::unique_ptr<vmm::Machine>> boot_guest(vmm::ShellMaker& shells, vmm::Executors executors,
                                                 vmm::MachineConfig config, const std::string& kernel_path);

}  // namespace cube::node
