// How seccomp filters name this architecture (linux/audit.h).
#pragma once

#include <linux/audit.h>

namespace cube::vmm::x86_64 {

inline constexpr unsigned audit_architecture = AUDIT_ARCH_X86_64;

}  // namespace cube::vmm::x86_64
