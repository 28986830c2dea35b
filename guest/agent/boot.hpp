// What process id 1 does before and after everything else.
#pragma once

#include <string>

namespace cube::agent {

/// Where programs of users run, once boot() made it.
inline constexpr const char* user_cgroup = "/sys/fs/cgroup/user";

/// Mounts, limits, kernel settings, network. A step that fails is logged, not fatal: a guest without one of
/// its controllers is better than none, and the daemon's /init finds out what must work.
void boot();

/// Ends every process, writes everything to disk and resets the machine.
[[noreturn]] void shut_down();

/// Logs why and resets the machine: without process id 1 it would only panic.
[[noreturn]] void die(const std::string& reason);

}  // namespace cube::agent
