// Writes to every page of 24 MiB once, then to one after another, slowly, for each write goes with an exit. Counts them
// at `count`.
#include "guest.h"

enum { pages = 24 << 8 };

volatile u64 count = 0;
static volatile u64 memory[pages][512] __attribute__((aligned(4096)));

void guest_main(void) {
  for (u64 i = 0; i < pages; ++i) memory[i][0] = (u64)&memory[i];
  print_number("count at ", (u64)&count);
  for (;;) {
    memory[count % pages][1] = count + 1;
    ++count;
    out8(0x80, 0);
  }
}
