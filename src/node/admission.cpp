#include "node/admission.hpp"

#include "node/host.hpp"

namespace cube::node {

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
