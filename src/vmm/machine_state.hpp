// The contents of a MachineState and its encoding:
//   magic, version, CPU fingerprint, memory size, clock, I/O APIC, serial port, vCPUs, devices, CRC32C of all
//   before.
#pragma once

#include <cstdint>
#include <cube/vmm.hpp>
#include <string>
#include <vector>

#include "vmm/arch/x86_64/ioapic.hpp"
#include "vmm/arch/x86_64/serial.hpp"
#include "vmm/arch/x86_64/vcpu_state.hpp"

namespace cube::vmm {

struct MachineRecord {
  std::uint64_t cpu_fingerprint = 0;
  std::uint64_t memory_bytes = 0;
  kvm_clock_data clock{};
  x86_64::IoApic::State ioapic{};
  x86_64::Serial::State serial{};
  std::vector<x86_64::VcpuState> vcpus;
  std::vector<std::string> devices;  ///< in the order of their windows
};

MachineState encode(const MachineRecord& record);

/// `corrupt` if magic, length or checksum do not fit, `conflict` for another version.
Result<MachineRecord> decode(const MachineState& state);

}  // namespace cube::vmm
