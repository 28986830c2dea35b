#include "node/host.hpp"

#include <algorithm>
#include <charconv>
#include <thread>

namespace cube::node {
namespace {

constexpr std::uint64_t floor_divisor = 32;

Result<std::uint64_t> field_mib(std::string_view text, std::string_view name) {
  const std::size_t start = text.find(name);
  const std::size_t digits = start == text.npos ? start : text.find_first_of("0123456789", start);
  std::uint64_t kib = 0;
  if (digits == text.npos ||
      std::from_chars(text.data() + digits, text.data() + text.size(), kib).ec != std::errc{})
    return make_error(ErrorCode::internal, "no " + std::string(name), "/proc/meminfo");
  return kib >> 10;
}

}  // namespace

Result<HostMemory> host_memory() {
  const auto text = read_file("/proc/meminfo", 64 << 10);
  if (!text) return text.error();
  const auto total = field_mib(*text, "MemTotal:");
  if (!total) return total.error();
  const auto available = field_mib(*text, "MemAvailable:");
  if (!available) return available.error();
  return HostMemory{*total, *available};
}

bool short_of_memory(const HostMemory& memory) {
  return memory.available_mib < memory.total_mib / floor_divisor;
}

unsigned processors() { return std::max(1u, std::thread::hardware_concurrency()); }

bool processors_are_busy() {
  const auto text = read_file("/proc/loadavg", 128);
  if (!text) return false;
  const std::size_t slash = text->find('/');
  if (slash == text->npos) return false;
  const std::size_t begin = text->rfind(' ', slash) + 1;  // of the fourth field: running/existing
  unsigned running = 0;
  std::from_chars(text->data() + begin, text->data() + slash, running);
  return running > processors();
}

}  // namespace cube::node
