// Writes pseudo-random words to every register of every device window, then resets. What the devices make of it
// decides whether the machine lives to the end.
#include "guest.h"

static u8 playground[1 << 20] __attribute__((aligned(4096)));

void guest_main(void) {
  map_devices();
  print("attacking\n");
  u64 random = read_tsc() | 1;
  for (u64 i = 0; i < sizeof playground / 8; ++i) {
    random = random * 6364136223846793005ul + 1442695040888963407ul;
    ((u64*)playground)[i] = random;
  }
  for (u64 round = 0; round < 200; ++round) {
    for (u64 slot = 0; slot < 6; ++slot) {
      const u64 window = DEVICE_WINDOW(slot);
      // A plausible start half of the time, so that the queues are reached as well.
      if ((random >> 20 & 1) != 0) {
        write32(window + 0x70, 0);
        write32(window + 0x70, 3);
        write32(window + 0x24, 1);
        write32(window + 0x20, 1);
        write32(window + 0x70, 11);
        for (u32 queue = 0; queue < 3; ++queue) {
          random = random * 6364136223846793005ul + 1442695040888963407ul;
          const u64 base = (u64)playground + (random >> 44 << 4 & 0xfff00);
          write32(window + 0x30, queue);
          write32(window + 0x38, 8);
          write32(window + 0x80, (u32)base);
          write32(window + 0x90, (u32)base + 0x1000);
          write32(window + 0xa0, (u32)base + 0x2000);
          write32(window + 0x44, 1);
        }
        write32(window + 0x70, 15);
        for (u32 queue = 0; queue < 3; ++queue) write32(window + 0x50, queue);
      }
      for (u64 offset = 0; offset < 0x120; offset += 4) {
        random = random * 6364136223846793005ul + 1442695040888963407ul;
        write32(window + offset, (u32)(random >> 32));
        (void)read32(window + offset);
      }
    }
  }
  print("survived\n");
  reset();
}
