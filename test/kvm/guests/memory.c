// Writes a pattern over 1 MiB and checks the one before, for ever: every word is the round's number plus its own
// address. Counts the rounds at `rounds`; says so and resets if a word is not what it was.
#include "guest.h"

enum { words = (1 << 20) / 8 };

volatile u64 rounds = 0;
static u64 memory[words] __attribute__((aligned(4096)));

void guest_main(void) {
  for (u64 i = 0; i < words; ++i) memory[i] = (u64)&memory[i];
  print_number("rounds at ", (u64)&rounds);
  for (;;) {
    for (u64 i = 0; i < words; ++i) {
      if (memory[i] != (u64)&memory[i] + rounds) {
        print_number("memory was corrupted at ", (u64)&memory[i]);
        reset();
      }
      memory[i] = (u64)&memory[i] + rounds + 1;
    }
    ++rounds;
  }
}
