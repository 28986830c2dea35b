// Writes to every fourth page of 12 MiB, one after another and over and over, each write with an exit. Counts them at
// `count`.
#include "guest.h"

enum { pages = 12 << 8, step = 4 };

volatile u64 count = 0;
static volatile u64 memory[pages][512] __attribute__((aligned(4096)));

void guest_main(void) {
  print_number("count at ", (u64)&count);
  for (;;) {
    memory[count * step % pages][1] = count + 1;
    ++count;
    out8(0x80, 0);
  }
}
