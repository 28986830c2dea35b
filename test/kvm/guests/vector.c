// Counts in an SSE register, with a copy in memory at `counter`, and says so if they ever disagree.
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
  const u64 one = 1;
  u64 vector = 0;
  __asm__ volatile("pxor %%xmm7, %%xmm7\n movq %0, %%xmm6" ::"r"(one));
  for (;;) {
    __asm__ volatile("paddq %%xmm6, %%xmm7\n pause\n movq %%xmm7, %0" : "=r"(vector));
    if (vector != counter + 1) {
      print("state was lost\n");
      reset();
    }
    counter = vector;
  }
}
