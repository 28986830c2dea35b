// Counts for ever in memory, a general register and an SSE register at once, and says so if they ever disagree.
// The host reads the count at `counter`, whose address is in the first line it prints.
#include "guest.h"

volatile u64 counter = 0;

void guest_main(void) {
  // Let SSE instructions run: no emulation, monitor coprocessor, OS support for FXSAVE.
  u64 cr0, cr4;
  __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
  __asm__ volatile("mov %0, %%cr0" ::"r"((cr0 & ~4ul) | 2));
  __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
  __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | 0x600));
  print_number("counter at ", (u64)&counter);

  register u64 general __asm__("r15") = 0;
  __asm__ volatile("pxor %%xmm7, %%xmm7" ::: "memory");
  for (;;) {
    ++general;
    counter = general;
    u64 vector;
    __asm__ volatile("movq %1, %%xmm7\n pause\n movq %%xmm7, %0" : "=r"(vector) : "r"(general));
    if (vector != general || counter != general) {
      print("state was lost\n");
      reset();
    }
  }
}
