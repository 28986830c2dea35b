// Counts at `counter`. When it finds another generation id than at first it is used: it writes to 256 pages.
#include "guest.h"

enum { generation_id = 0xf0000, pages = 256 };

volatile u64 counter = 0;
static volatile u64 memory[pages][512] __attribute__((aligned(4096)));

void guest_main(void) {
  const volatile u64* const id = (const volatile u64*)generation_id;
  u64 last = *id;
  print_number("counter at ", (u64)&counter);
  for (;;) {
    if (*id != last)
      for (u64 i = 0; i < pages; ++i) memory[i][0] = i;
    last = *id;
    ++counter;
  }
}
