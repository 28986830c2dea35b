// The hardware-reduced ACPI tables (ACPI 6.5) that tell the guest of its processors, I/O APIC, virtio-mmio
// devices and VM generation ID. Hardware-reduced means: no PIC, PIT, RTC or power-management registers need
// to exist.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <span>

#include "vmm/guest_memory.hpp"

namespace cube::vmm::x86_64 {

/// A virtio-mmio register window and its interrupt pin.
struct DeviceWindow {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::uint32_t pin = 0;
};

Result<void> write_acpi_tables(const GuestMemory& memory, std::uint32_t vcpu_count,
                               std::span<const DeviceWindow> windows);

}  // namespace cube::vmm::x86_64
