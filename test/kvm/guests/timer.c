// Sleeps in HLT and is woken by the local APIC's TSC-deadline timer; counts the interrupts at `ticks`.
#include "guest.h"

enum { apic_base = 0x1b, tsc_deadline = 0x6e0, x2apic = 0x800 };
enum { vector = 0x40, period = 2000000 };

volatile u64 ticks = 0;

static u64 interrupt_table[512] __attribute__((aligned(16)));

__attribute__((naked, used)) static void on_timer(void) {
  __asm__ volatile(
      "push %rax\n push %rcx\n push %rdx\n"
      "incq ticks(%rip)\n"
      "rdtsc\n"
      "add $2000000, %eax\n adc $0, %edx\n"
      "mov $0x6e0, %ecx\n wrmsr\n"                          // the next deadline
      "mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"  // end of interrupt
      "pop %rdx\n pop %rcx\n pop %rax\n iretq");
}

void guest_main(void) {
  const u64 handler = (u64)on_timer;
  interrupt_table[2 * vector] = (handler & 0xffff) | 0x10ul << 16 | 0x8e00ul << 32 | (handler >> 16 & 0xffff) << 48;
  interrupt_table[2 * vector + 1] = handler >> 32;
  struct __attribute__((packed)) {
    u16 limit;
    u64 base;
  } table = {sizeof interrupt_table - 1, (u64)interrupt_table};
  __asm__ volatile("lidt %0" ::"m"(table));

  write_msr(apic_base, read_msr(apic_base) | 0xc00);  // x2APIC mode
  write_msr(x2apic + 0x0f, 0x1ff);                     // spurious vector, enabled
  write_msr(x2apic + 0x32, vector | 2 << 17);          // timer: TSC-deadline mode
  print_number("ticks at ", (u64)&ticks);
  write_msr(tsc_deadline, read_tsc() + period);
  for (;;) __asm__ volatile("sti\n hlt");
}
