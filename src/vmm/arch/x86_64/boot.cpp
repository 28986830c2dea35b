#include "vmm/arch/x86_64/boot.hpp"

#include <asm/bootparam.h>
#include <elf.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/arch/x86_64/layout.hpp"

namespace cube::vmm::x86_64 {
namespace {

constexpr unsigned most_segments = 64;

Error bad_kernel(std::string why) {
  return make_error(ErrorCode::invalid_argument, "not a bootable x86-64 vmlinux: " + std::move(why),
                    "guest kernel");
}

template <class T>
Result<void> store(const GuestMemory& memory, std::uint64_t address, const T& value) {
  auto target = memory.slice(address, sizeof value);
  if (!target) return std::move(target).error();
  std::memcpy(target->data(), &value, sizeof value);
  return {};
}

Result<Elf64_Ehdr> read_header(int fd) {
  Elf64_Ehdr header;
  CUBE_TRY(read_exactly(fd, std::as_writable_bytes(std::span(&header, 1)), 0));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return bad_kernel("no ELF magic (a bzImage must be unpacked)");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return bad_kernel("not ELF64 for x86-64");
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) return bad_kernel("not an executable");
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return bad_kernel("odd program header size");
  if (header.e_phnum == 0 || header.e_phnum > most_segments)
    return bad_kernel("odd number of program headers");
  return header;
}

Result<void> load_segment(const GuestMemory& memory, int fd, const Elf64_Phdr& segment) {
  if (segment.p_filesz > segment.p_memsz) return bad_kernel("a segment is larger in the file than in memory");
  if (segment.p_paddr < high_ram_start) return bad_kernel("a segment lies below 1 MiB");
  if (segment.p_offset > INT64_MAX - segment.p_filesz)
    return bad_kernel("a segment lies past the end of the file");
  auto target = memory.slice(segment.p_paddr, segment.p_memsz);
  if (!target) return bad_kernel("a segment does not fit into the guest's memory");
  CUBE_TRY(read_exactly(fd, target->first(segment.p_filesz), segment.p_offset));
  std::ranges::fill(target->subspan(segment.p_filesz), std::byte{0});
  return {};
}

void add_range(boot_params& params, std::uint64_t start, std::uint64_t end, std::uint32_t type) {
  constexpr std::size_t capacity = sizeof params.e820_table / sizeof params.e820_table[0];
  if (end > start && params.e820_entries < capacity)
    params.e820_table[params.e820_entries++] = {start, end - start, type};
}

boot_params make_boot_params(const GuestMemory& memory, std::size_t command_line_length) {
  constexpr std::uint32_t ram = 1, reserved = 2;
  boot_params params{};
  params.hdr.type_of_loader = 0xff;
  params.hdr.boot_flag = 0xaa55;
  params.hdr.header = 0x53726448;
  params.hdr.kernel_alignment = 0x1000000;
  params.hdr.cmd_line_ptr = command_line_address;
  params.hdr.cmdline_size = static_cast<std::uint32_t>(command_line_length);
  params.acpi_rsdp_addr = acpi_address;
  add_range(params, 0, low_ram_end, ram);
  add_range(params, low_ram_end, high_ram_start, reserved);
  for (const MemoryRegion& region : memory.regions())
    add_range(params, std::max(region.guest_address, high_ram_start),
              region.guest_address + region.host.size(), ram);
  return params;
}

Result<void> write_page_tables(const GuestMemory& memory) {
  constexpr std::uint64_t present_writable = 0x3, large_page = 0x80;
  CUBE_TRY(store(memory, pml4_address, pdpt_address | present_writable));
  CUBE_TRY(store(memory, pdpt_address, page_directory_address | present_writable));
  for (std::uint64_t i = 0; i < 512; ++i)
    CUBE_TRY(store(memory, page_directory_address + 8 * i, i << 21 | present_writable | large_page));
  return {};
}

}  // namespace

Result<std::uint64_t> load_kernel(const GuestMemory& memory, int kernel_fd) {
  const auto header = read_header(kernel_fd);
  if (!header) return header.error();
  std::vector<Elf64_Phdr> segments(header->e_phnum);
  if (header->e_phoff > INT64_MAX - segments.size() * sizeof(Elf64_Phdr))
    return bad_kernel("program headers out of range");
  CUBE_TRY(read_exactly(kernel_fd, std::as_writable_bytes(std::span(segments)), header->e_phoff));
  bool entry_loaded = false;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    CUBE_TRY(load_segment(memory, kernel_fd, segment));
    entry_loaded |= header->e_entry >= segment.p_paddr && header->e_entry - segment.p_paddr < segment.p_memsz;
  }
  if (!entry_loaded) return bad_kernel("its entry point lies in no segment");
  return header->e_entry;
}

Result<void> write_boot_data(const GuestMemory& memory, const std::string& command_line) {
  if (command_line.size() >= command_line_capacity)
    return make_error(ErrorCode::invalid_argument, "the kernel command line is longer than 2047 bytes");
  auto text = memory.slice(command_line_address, command_line.size() + 1);
  if (!text) return std::move(text).error();
  std::memcpy(text->data(), command_line.c_str(), command_line.size() + 1);
  CUBE_TRY(store(memory, boot_params_address, make_boot_params(memory, command_line.size())));

  // null, null, 64-bit code, data, task state: selectors 0x10, 0x18, 0x20 as the boot protocol wants them.
  constexpr std::uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f8b000000ffff};
  for (std::size_t i = 0; i < std::size(gdt); ++i) CUBE_TRY(store(memory, gdt_address + 8 * i, gdt[i]));
  return write_page_tables(memory);
}

}  // namespace cube::vmm::x86_64
