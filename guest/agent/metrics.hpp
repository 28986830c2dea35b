// GET /metrics: processor, memory and disk use of the guest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cube::agent {

/// Share of processor time used since the last call, or since boot for the first one.
class CpuUsage {
 public:
  /// `stat`: the text of /proc/stat. 0 to 100 over all processors.
  double sample(std::string_view stat);

 private:
  std::uint64_t busy_ = 0;
  std::uint64_t total_ = 0;
};

struct MemoryUsage {
  std::uint64_t total = 0;  ///< bytes
  std::uint64_t used = 0;   ///< neither free nor cache
  std::uint64_t cache = 0;
};
/// `meminfo`: the text of /proc/meminfo.
MemoryUsage memory_usage(std::string_view meminfo);

std::string metrics_json(CpuUsage& usage);

}  // namespace cube::agent
