// Memory whose faults map one page.
#pragma once

#include <cstddef>
#include <cube/core.hpp>
#include <span>

namespace cube::vmm {

/// A fault in a file's mapping usually maps its neighbours too (fault-around, 64 KiB), and who asks later
/// which pages were needed hears of all of them. While the descriptor returned is open, faults in `memory`
/// map the page that was touched. Empty where the kernel cannot (before Linux 6.7): then there are more.
Fd make_faults_exact(std::span<std::byte> memory);

}  // namespace cube::vmm
