// Counts for ever in memory and in a register at once, and says so if they ever disagree. The host reads the count at
// `counter`, whose address is in the first line it prints.
#include "guest.h"

volatile u64 counter = 0;

void guest_main(void) {
  print_number("counter at ", (u64)&counter);
  register u64 general __asm__("r15") = 0;
  for (;;) {
    counter = ++general;
    __asm__ volatile("pause" : "+r"(general));
    if (counter != general) {
      print("state was lost\n");
      reset();
    }
  }
}
