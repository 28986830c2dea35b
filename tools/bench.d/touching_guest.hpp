// A guest of 44 bytes, and the ELF file around it: touches 1000 pages, writing every second one and reading
// the others, sets a word and waits for ever.
#pragma once

#include <elf.h>
#include <sys/mman.h>

#include <array>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <vector>

namespace cube::bench {

struct TouchingGuest {
  static constexpr std::uint64_t first_page = 0x1000000, stride = 0x2000, pages = 1000, done = 0x200000;

  /// One run a page, as the record of an earlier clone would have it.
  static std::vector<vmm::PageRun> working_set() {
    std::vector<vmm::PageRun> runs;
    for (std::uint64_t i = 0; i < pages; ++i)
      runs.push_back({first_page + i * stride, vmm::page_size, i % 2 == 0});
    return runs;
  }

  static Result<Fd> elf() {
    constexpr std::uint64_t entry = 0x100000;
    constexpr std::array<std::uint8_t, 44> code = {
        0xbf, 0x00, 0x00, 0x00, 0x01,              //     mov edi, first_page
        0xb9, 0xf4, 0x01, 0x00, 0x00,              //     mov ecx, pages / 2
        0x89, 0x0f,                                // 1:  mov [rdi], ecx
        0x8b, 0x87, 0x00, 0x20, 0x00, 0x00,        //     mov eax, [rdi + stride]
        0x81, 0xc7, 0x00, 0x40, 0x00, 0x00,        //     add edi, 2 * stride
        0xff, 0xc9,                                //     dec ecx
        0x75, 0xee,                                //     jnz 1b
        0xb8, 0x01, 0x00, 0x00, 0x00,              //     mov eax, 1
        0x89, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00,  //     mov [done], eax
        0xf3, 0x90,                                // 2:  pause
        0xeb, 0xfc,                                //     jmp 2b
    };
    struct {
      Elf64_Ehdr header{};
      Elf64_Phdr segment{};
      std::array<std::uint8_t, code.size()> text = code;
    } file;
    std::copy_n(ELFMAG, SELFMAG, file.header.e_ident);
    file.header.e_ident[EI_CLASS] = ELFCLASS64;
    file.header.e_ident[EI_DATA] = ELFDATA2LSB;
    file.header.e_type = ET_EXEC;
    file.header.e_machine = EM_X86_64;
    file.header.e_entry = entry;
    file.header.e_phoff = offsetof(decltype(file), segment);
    file.header.e_phentsize = sizeof file.segment;
    file.header.e_phnum = 1;
    file.segment.p_type = PT_LOAD;
    file.segment.p_offset = offsetof(decltype(file), text);
    file.segment.p_paddr = entry;
    file.segment.p_filesz = file.segment.p_memsz = code.size();
    Fd fd(::memfd_create("guest", MFD_CLOEXEC));
    CUBE_TRY(write_exactly(fd.get(), std::as_bytes(std::span(&file, 1)), 0));
    return fd;
  }
};

}  // namespace cube::bench
