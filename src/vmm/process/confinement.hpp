// What the process of a machine may do.
#pragma once

#include <cube/core.hpp>

namespace cube::vmm {

/// From here on, for this thread and all it starts: no privileges (root becomes nobody), no core dumps, and
/// only system calls that work on descriptors and memory the process has; what opens, connects, executes,
/// signals or traces others fails with EPERM (seccomp(2)).
Result<void> confine_process();

}  // namespace cube::vmm
