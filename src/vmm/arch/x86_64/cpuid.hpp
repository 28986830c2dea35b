// What the guest's CPUID instruction says: what KVM supports here, made particular to one vCPU.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/kvm_abi.hpp"

namespace cube::vmm::x86_64 {

std::vector<kvm_cpuid_entry2> cpuid_for(std::vector<kvm_cpuid_entry2> supported, std::uint32_t vcpu,
                                        std::uint32_t vcpu_count);

/// Names the processor (vendor, family, model, stepping) and the features KVM offers: snapshots move only
/// between equals.
std::uint64_t cpu_fingerprint(const std::vector<kvm_cpuid_entry2>& supported);

}  // namespace cube::vmm::x86_64
