#include "vmm/arch/x86_64/cpuid.hpp"

#include <bit>

namespace cube::vmm::x86_64 {
namespace {

// CPUID bits (Intel SDM volume 2, CPUID; the kernel's Documentation/virt/kvm/x86/cpuid.rst).
constexpr std::uint32_t ecx1_monitor = 1u << 3, ecx1_tsc_deadline = 1u << 24, ecx1_hypervisor = 1u << 31;
constexpr std::uint32_t edx1_hyper_threading = 1u << 28;
constexpr std::uint32_t kvm_features_leaf = 0x40000001;
// Asynchronous page faults would deliver a guest-visible exception whose token outlives a snapshot.
constexpr std::uint32_t kvm_async_page_fault_bits = 1u << 4 | 1u << 10 | 1u << 14;

void set_topology(kvm_cpuid_entry2& entry, std::uint32_t vcpu, std::uint32_t vcpu_count) {
  // One package, one thread a core: level 0 is the thread, level 1 the core (Intel SDM, leaf 0Bh).
  entry.edx = vcpu;
  entry.eax = entry.ebx = 0;
  entry.ecx = entry.index & 0xff;
  if (entry.index == 0) {
    entry.ebx = 1;
    entry.ecx |= 1 << 8;
  } else if (entry.index == 1) {
    entry.eax = static_cast<std::uint32_t>(std::bit_width(vcpu_count - 1));
    entry.ebx = vcpu_count;
    entry.ecx |= 2 << 8;
  }
}

void adapt(kvm_cpuid_entry2& entry, std::uint32_t vcpu, std::uint32_t vcpu_count) {
  switch (entry.function) {
    case 0x1:
      // Without the hypervisor bit the guest never looks for kvm-clock; without TSC-deadline it wants a PIT.
      entry.ecx = (entry.ecx | ecx1_hypervisor | ecx1_tsc_deadline) & ~ecx1_monitor;
      entry.ebx = (entry.ebx & 0x0000ffff) | vcpu << 24 | vcpu_count << 16;
      entry.edx = vcpu_count > 1 ? entry.edx | edx1_hyper_threading : entry.edx & ~edx1_hyper_threading;
      break;
    case 0x4:
      // Cores a package and threads sharing a cache describe the host otherwise.
      if ((entry.eax & 0x1f) != 0) entry.eax = (entry.eax & 0x00003fff) | (vcpu_count - 1) << 26;
      break;
    case 0xb:
    case 0x1f: set_topology(entry, vcpu, vcpu_count); break;
    case kvm_features_leaf: entry.eax &= ~kvm_async_page_fault_bits; break;
    case 0x80000008:
      entry.ecx = (entry.ecx & ~0xf0ffu) | static_cast<std::uint32_t>(std::bit_width(vcpu_count - 1)) << 12 |
                  (vcpu_count - 1);
      break;
    case 0x8000001e:
      entry.eax = vcpu;
      entry.ebx = vcpu;
      entry.ecx = 0;
      break;
    default: break;
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_for(std::vector<kvm_cpuid_entry2> supported, std::uint32_t vcpu,
                                        std::uint32_t vcpu_count) {
  for (kvm_cpuid_entry2& entry : supported) adapt(entry, vcpu, vcpu_count);
  return supported;
}

std::uint64_t cpu_fingerprint(const std::vector<kvm_cpuid_entry2>& supported) {
  // FNV-1a over the leaves that name the processor and its features; the others hold host-dependent numbers.
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](std::uint32_t word) {
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (word >> shift & 0xff)) * 0x100000001b3;
  };
  for (const kvm_cpuid_entry2& entry : supported) {
    const bool identity = entry.function == 0x0 || entry.function == 0x1;
    const bool features =
        entry.function == 0x7 || entry.function == 0x80000001 || entry.function == kvm_features_leaf;
    if (!identity && !features) continue;
    add(entry.function);
    add(entry.index);
    add(entry.eax);
    // Leaf 1 EBX names the CPU it was read on, leaf 1 ECX bit 27 and leaf 7 EDX vary with the reader's
    // settings.
    if (entry.function != 0x1) add(entry.ebx);
    add(entry.function == 0x1 ? entry.ecx & ~(1u << 27) : entry.ecx);
    add(entry.edx);
  }
  return hash;
}

}  // namespace cube::vmm::x86_64
