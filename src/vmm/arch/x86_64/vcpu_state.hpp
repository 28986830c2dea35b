// Everything of a vCPU that a snapshot needs, and the order in which KVM wants it read and written.
#pragma once

#include <array>
#include <cstdint>
#include <cube/core.hpp>
#include <vector>

#include "vmm/kvm.hpp"

namespace cube::vmm::x86_64 {

/// What has the same size on every host.
struct VcpuRegisters {
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::array<std::uint32_t, 1024>
      xsave{};  ///< kvm_xsave, which has a flexible array and so cannot be a member
  kvm_xcrs xcrs{};
  kvm_debugregs debugregs{};
  kvm_lapic_state lapic{};
  kvm_vcpu_events events{};
};

struct VcpuState {
  VcpuRegisters registers;
  std::vector<kvm_msr_entry> msrs;
};

/// The MSRs worth saving among those this KVM knows.
std::vector<std::uint32_t> msrs_to_save(const std::vector<std::uint32_t>& known);

/// The vCPU must be stopped with no exit half done.
Result<VcpuState> save_vcpu(const Vcpu& vcpu, const std::vector<std::uint32_t>& msrs);

/// After CPUID has been set: several MSRs depend on it.
Result<void> restore_vcpu(Vcpu& vcpu, const VcpuState& state);

Result<void> set_cpuid(Vcpu& vcpu, const std::vector<kvm_cpuid_entry2>& entries);

/// Registers and MSRs of a processor that enters a 64-bit kernel at `entry`.
Result<void> set_boot_state(Vcpu& vcpu, std::uint64_t entry);

}  // namespace cube::vmm::x86_64
