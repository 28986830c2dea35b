// Waiting for a guest that is to be paused to become idle.
#pragma once

#include <chrono>
#include <functional>

namespace cube::vmm {

/// Blocks until vCPUs have been idle for about 20 ms (true), or until `latest` or `stopped` (false).
/// `cpu_time` tells how long all of them have had processors; one that waits for a processor looks idle, too.
bool wait_until_idle(const std::function<std::chrono::nanoseconds()>& cpu_time,
                     const std::function<bool()>& stopped, std::chrono::steady_clock::time_point latest);

}  // namespace cube::vmm
