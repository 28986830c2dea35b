// Counts the interrupts of pin 20, which says that the guest is another copy than before, at `generations`, and its
// own steps in the word after it.
#include "guest.h"

enum { apic_base = 0x1b, x2apic = 0x800, vector = 0x41, pin = 20 };
enum { io_apic = 0xfec00000 };

volatile u64 generations[2];

static u64 interrupt_table[512] __attribute__((aligned(16)));

__attribute__((naked, used)) static void on_generation(void) {
  __asm__ volatile(
      "push %rax\n push %rcx\n push %rdx\n"
      "incq generations(%rip)\n"
      "mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"  // end of interrupt
      "pop %rdx\n pop %rcx\n pop %rax\n iretq");
}

static void write_io_apic(u32 number, u32 value) {
  write32(io_apic, number);
  write32(io_apic + 0x10, value);
}

void guest_main(void) {
  const u64 handler = (u64)on_generation;
  interrupt_table[2 * vector] = (handler & 0xffff) | 0x10ul << 16 | 0x8e00ul << 32 | (handler >> 16 & 0xffff) << 48;
  interrupt_table[2 * vector + 1] = handler >> 32;
  struct __attribute__((packed)) {
    u16 limit;
    u64 base;
  } table = {sizeof interrupt_table - 1, (u64)interrupt_table};
  __asm__ volatile("lidt %0" ::"m"(table));

  map_devices();
  write_msr(apic_base, read_msr(apic_base) | 0xc00);  // x2APIC mode
  write_msr(x2apic + 0x0f, 0x1ff);                    // spurious vector, enabled
  write_io_apic(0x10 + 2 * pin + 1, 0);               // to the first vCPU
  write_io_apic(0x10 + 2 * pin, vector);              // edge-triggered, unmasked
  __asm__ volatile("sti");
  print_number("generations at ", (u64)generations);
  for (;;) ++generations[1];
}
