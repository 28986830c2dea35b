// Putting a guest into a shell of this process.
#pragma once

#include <cube/vmm.hpp>
#include <memory>

#include "vmm/shell.hpp"

namespace cube::vmm {

/// See MachineShell. `config` has the shell's shape.
Result<std::unique_ptr<Machine>> boot(std::unique_ptr<Shell> shell, Executors executors, MachineConfig config,
                                      const BootSource& source);
Result<std::unique_ptr<Machine>> restore(std::unique_ptr<Shell> shell, Executors executors,
                                         MachineConfig config, const MachineState& state,
                                         const MemoryImage& memory);

/// `invalid_argument` if a machine is to have another shape than its shell.
Result<void> check_shape(const MachineConfig& config, const MachineShell& shell);

}  // namespace cube::vmm
