// Where things lie in the guest's physical address space, and which interrupt pins they use.
#pragma once

#include <cstdint>

namespace cube::vmm::x86_64 {

// Below 1 MiB: what the boot protocol and firmware tables need. All of it is RAM.
inline constexpr std::uint64_t gdt_address = 0x500;  ///< five descriptors: up to 0x528
inline constexpr std::uint64_t idt_address = 0x530;
inline constexpr std::uint64_t boot_params_address = 0x7000;
inline constexpr std::uint64_t boot_stack_address = 0x8ff0;
inline constexpr std::uint64_t pml4_address = 0x9000;
inline constexpr std::uint64_t pdpt_address = 0xa000;
inline constexpr std::uint64_t page_directory_address = 0xb000;
inline constexpr std::uint64_t command_line_address = 0x20000;
inline constexpr std::uint64_t command_line_capacity = 2048;
inline constexpr std::uint64_t low_ram_end = 0x9fc00;
inline constexpr std::uint64_t acpi_address =
    0xe0000;  ///< RSDP first; Linux searches 0xe0000..0xfffff for it
inline constexpr std::uint64_t acpi_capacity = 0x10000;
inline constexpr std::uint64_t generation_id_address = 0xf0000;  ///< in a page that the e820 map reserves
inline constexpr std::uint64_t high_ram_start = 0x100000;

// In the MMIO gap below 4 GiB.
inline constexpr std::uint64_t virtio_mmio_base = 0xd0000000;
inline constexpr std::uint64_t virtio_mmio_window = 0x1000;
inline constexpr std::uint64_t ioapic_address = 0xfec00000;
inline constexpr std::uint64_t ioapic_window = 0x1000;
inline constexpr std::uint64_t local_apic_address = 0xfee00000;
inline constexpr std::uint64_t identity_map_address = 0xfffbc000;
inline constexpr std::uint64_t tss_address = 0xfffbd000;

inline constexpr std::uint32_t ioapic_pins = 24;
inline constexpr std::uint32_t serial_pin = 4;
inline constexpr std::uint32_t first_virtio_pin = 5;
inline constexpr std::uint32_t generation_pin = 20;  ///< the guest is another copy than before

inline constexpr std::uint16_t serial_port = 0x3f8;
inline constexpr std::uint16_t keyboard_controller_port = 0x64;

}  // namespace cube::vmm::x86_64
