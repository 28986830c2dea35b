#include "node/admission.hpp"

#include <charconv>

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

Result<std::shared_ptr<void>> Admission::reserve(std::uint64_t memory_mib) {
  const std::uint64_t promised_mib = usage_->memory_mib;
  if (usage_->sandboxes >= limits_.sandboxes)
    return make_error(ErrorCode::resource_exhausted,
                      "this host runs its limit of " + std::to_string(limits_.sandboxes) + " sandboxes");
  if (memory_mib > limits_.memory_mib - std::min(limits_.memory_mib, promised_mib))
    return make_error(ErrorCode::resource_exhausted, "no room for another " + std::to_string(memory_mib) +
                                                         " MiB: " + std::to_string(promised_mib) + " of " +
                                                         std::to_string(limits_.memory_mib) +
                                                         " MiB are promised to sandboxes");
  const auto memory = host_memory();
  if (!memory) return memory.error();
  if (short_of_memory(*memory))
    return make_error(
        ErrorCode::resource_exhausted,
        "the host is short of memory: " + std::to_string(memory->available_mib) + " MiB available");
  usage_->memory_mib += memory_mib;
  ++usage_->sandboxes;
  return std::shared_ptr<void>(usage_.get(), [usage = usage_, memory_mib](void*) {
    usage->memory_mib -= memory_mib;
    --usage->sandboxes;
  });
}

}  // namespace cube::node
