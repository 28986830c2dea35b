// Direct boot of a 64-bit vmlinux (the kernel's Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <string>

#include "vmm/guest_memory.hpp"

namespace cube::vmm::x86_64 {

/// Copies the PT_LOAD segments of an ELF64 executable into guest memory, zeroing what lies past the file's
/// bytes; the entry's physical address. The file is hostile: every offset and size is checked, work is
/// bounded by its size.
Result<std::uint64_t> load_kernel(const GuestMemory& memory, int kernel_fd);

/// boot_params with the e820 map, command line, GDT, IDT and identity page tables for the first GiB.
Result<void> write_boot_data(const GuestMemory& memory, const std::string& command_line);

}  // namespace cube::vmm::x86_64
