// Faults with no interrupt table to turn to.
#include "guest.h"

void guest_main(void) {
  print("about to fault\n");
  struct __attribute__((packed)) {
    u16 limit;
    u64 base;
  } none = {0, 0};
  __asm__ volatile("lidt %0\n ud2" ::"m"(none));
}
