// What the host has left.
#pragma once

#include <cstdint>
#include <cube/core.hpp>

namespace cube::node {

/// MemTotal and MemAvailable of /proc/meminfo, in MiB.
struct HostMemory {
  std::uint64_t total_mib = 0;
  std::uint64_t available_mib = 0;
};
Result<HostMemory> host_memory();

/// So little is available that nothing new starts and what only saves time is given back: what runs needs
/// room to write.
bool short_of_memory(const HostMemory& memory);

/// At least one.
unsigned processors();

/// At this moment every processor has something to do besides the caller (/proc/loadavg, proc_loadavg(5)).
bool processors_are_busy();

}  // namespace cube::node
