// A virtio-blk driver, polling: reads each sector as long as its first byte is not 0, prints what it holds, writes
// it back to the sector 64 further on, and resets when all is done. One request at a time.
#include "guest.h"

enum { queue_size = 8, sector_bytes = 512, copy_distance = 64 };

struct descriptor {
  u64 address;
  u32 length;
  u16 flags, next;
};
static struct descriptor descriptors[queue_size] __attribute__((aligned(16)));
static struct {
  u16 flags, index, ring[queue_size], used_event;
} available __attribute__((aligned(2)));
static struct {
  u16 flags, index;
  struct {
    u32 id, length;
  } ring[queue_size];
  u16 available_event;
} used __attribute__((aligned(4)));
static struct {
  u32 type, reserved;
  u64 sector;
} header;
static char data[sector_bytes];
static volatile u8 status;

static const u64 window = DEVICE_WINDOW(0);

static void set_status(u32 bits) { write32(window + 0x70, bits); }
static void set_address(u64 reg, const volatile void* part) {
  write32(window + reg, (u32)(u64)part);
  write32(window + reg + 4, (u32)((u64)part >> 32));
}

static int start_driver(void) {
  if (read32(window) != 0x74726976 || read32(window + 4) != 2 || read32(window + 8) != 2) return 0;
  set_status(0);
  set_status(1);
  set_status(3);
  write32(window + 0x24, 1);  // VIRTIO_F_VERSION_1
  write32(window + 0x20, 1);
  write32(window + 0x24, 0);
  write32(window + 0x20, 0);
  set_status(11);
  if ((read32(window + 0x70) & 8) == 0) return 0;
  write32(window + 0x30, 0);
  write32(window + 0x38, queue_size);
  set_address(0x80, descriptors);
  set_address(0x90, &available);
  set_address(0xa0, &used);
  write32(window + 0x44, 1);
  set_status(15);
  return (read32(window + 0x70) & 0x40) == 0;
}

static u8 request(u32 type, u64 sector) {
  header.type = type;
  header.sector = sector;
  status = 0xff;
  descriptors[0] = (struct descriptor){(u64)&header, sizeof header, 1, 1};
  descriptors[1] = (struct descriptor){(u64)data, sector_bytes, (u16)(type == 0 ? 3 : 1), 2};
  descriptors[2] = (struct descriptor){(u64)&status, 1, 2, 0};
  available.ring[available.index % queue_size] = 0;
  __sync_synchronize();
  available.index++;
  __sync_synchronize();
  write32(window + 0x50, 0);
  while (*(volatile u16*)&used.index != available.index) __asm__ volatile("pause");
  return status;
}

void guest_main(void) {
  map_devices();
  if (!start_driver()) {
    print("no driver\n");
    reset();
  }
  for (u64 sector = 0;; ++sector) {
    if (request(0, sector) != 0) {
      print_number("cannot read sector ", sector);
      reset();
    }
    if (data[0] == 0) break;
    print(data);
    if (request(1, sector + copy_distance) != 0) {
      print_number("cannot write sector ", sector + copy_distance);
      reset();
    }
  }
  print("done\n");
  reset();
}
