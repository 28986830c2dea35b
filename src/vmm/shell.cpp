#include "vmm/shell.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "vmm/arch/x86_64/cpuid.hpp"
#include "vmm/arch/x86_64/layout.hpp"
#include "vmm/arch/x86_64/vcpu_state.hpp"

namespace cube::vmm {
namespace {

constexpr std::uint64_t least_memory = 64ull << 20;

Result<void> check(std::uint32_t vcpu_count, std::uint64_t memory_bytes) {
  if (vcpu_count == 0 || vcpu_count > max_vcpus)
    return make_error(ErrorCode::invalid_argument,
                      "a machine has 1 to " + std::to_string(max_vcpus) + " vCPUs");
  if (memory_bytes < least_memory || memory_bytes % page_size != 0)
    return make_error(ErrorCode::invalid_argument, "guest memory must be whole pages and at least 64 MiB");
  return {};
}

/// Of a run that may lie in two regions.
std::span<std::byte> part_of(const MemoryRegion& region, const PageRun& run) {
  const std::uint64_t begin = std::max(run.offset, region.image_offset);
  const std::uint64_t end = std::min(run.offset + run.bytes, region.image_offset + region.host.size());
  return begin < end ? region.host.subspan(begin - region.image_offset, end - begin) : std::span<std::byte>();
}

}  // namespace

Result<std::shared_ptr<const HostProfile>> examine_host(int kvm_fd) {
  CUBE_TRY(check_kvm(kvm_fd));
  auto host = std::make_shared<HostProfile>();
  auto cpuid = supported_cpuid(kvm_fd);
  if (!cpuid) return std::move(cpuid).error();
  const auto msrs = msr_index_list(kvm_fd);
  if (!msrs) return msrs.error();
  const auto run_bytes = vcpu_run_bytes(kvm_fd);
  if (!run_bytes) return run_bytes.error();
  host->cpuid = std::move(*cpuid);
  host->msrs = x86_64::msrs_to_save(*msrs);
  host->cpu_fingerprint = x86_64::cpu_fingerprint(host->cpuid);
  host->vcpu_run_bytes = *run_bytes;
  host->pre_faults = has_extension(kvm_fd, KVM_CAP_PRE_FAULT_MEMORY);
  return std::shared_ptr<const HostProfile>(std::move(host));
}

/// The order of calls, here and in assemble, is explained in kvm.hpp.
Result<ShellCore> ShellCore::make(int kvm_fd, const HostProfile& host) {
  auto vm = create_vm(kvm_fd);
  if (!vm) return std::move(vm).error();
  CUBE_TRY(vm->set_identity_map_address(x86_64::identity_map_address));
  CUBE_TRY(vm->set_tss_address(x86_64::tss_address));
  CUBE_TRY(vm->enable_split_irqchip(x86_64::ioapic_pins));
  auto first = vm->create_vcpu(0, host.vcpu_run_bytes);
  if (!first) return std::move(first).error();
  ShellCore core{std::move(*vm), {}};
  core.vcpus.push_back(std::move(*first));
  return core;
}

Result<void> Shell::assemble(std::uint32_t vcpu_count) {
  std::uint32_t slot = 0;
  for (const MemoryRegion& region : memory_->regions())
    CUBE_TRY(vm().set_memory_slot(slot++, region.guest_address, region.host));
  auto& vcpus = core_.vcpus;
  for (std::uint32_t i = 0; i < vcpu_count; ++i) {
    if (i == vcpus.size()) {
      auto next = vm().create_vcpu(i, host_->vcpu_run_bytes);
      if (!next) return std::move(next).error();
      vcpus.push_back(std::move(*next));
    }
    CUBE_TRY(x86_64::set_cpuid(vcpus[i], x86_64::cpuid_for(host_->cpuid, i, vcpu_count)));
  }
  return {};
}

// One after the other: taking turns made a page that is written a third dearer.
void Shell::populate(std::span<const PageRun> working_set) {
  populate_host(working_set);
  if (host_->pre_faults) pre_fault(working_set);
}

/// Since Linux 5.14. Reading maps what the page cache holds, writing makes the copies. KVM's own faults are
/// for reading: they make do with the copies, and need nobody to map what is only read.
void Shell::populate_host(std::span<const PageRun> working_set) {
  for (const PageRun& run : working_set) {
    if (!run.written && host_->pre_faults) continue;
    for (const MemoryRegion& region : memory_->regions())
      if (const auto part = part_of(region, run); !part.empty())
        ::madvise(part.data(), part.size(), run.written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
  }
}

void Shell::pre_fault(std::span<const PageRun> working_set) {
  for (auto next = working_set.begin(); next != working_set.end();) {
    PageRun run = *next++;
    for (; next != working_set.end() && next->offset == run.offset + run.bytes; ++next)
      run.bytes += next->bytes;
    for (const MemoryRegion& region : memory_->regions())
      if (const auto part = part_of(region, run); !part.empty()) {
        const auto offset = static_cast<std::uint64_t>(part.data() - region.host.data());
        [[maybe_unused]] const auto a_hint =
            core_.vcpus.front().pre_fault(region.guest_address + offset, part.size());
      }
  }
}

Result<std::unique_ptr<Shell>> Shell::make(ShellCore core, std::uint32_t vcpu_count,
                                           std::uint64_t memory_bytes,
                                           std::shared_ptr<const HostProfile> host) {
  CUBE_TRY(check(vcpu_count, memory_bytes));
  auto memory = GuestMemory::map_anonymous(memory_bytes);
  if (!memory) return std::move(memory).error();
  auto shell = std::make_unique<Shell>(std::move(host), std::make_shared<GuestMemory>(std::move(*memory)),
                                       std::move(core));
  CUBE_TRY(shell->assemble(vcpu_count));
  return shell;
}

}  // namespace cube::vmm
