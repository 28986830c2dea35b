// What the tiny guests of the kvm suite share: a freestanding 64-bit program, entered as a vmlinux would be.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static inline void print(const char* text) {
  for (; *text != 0; ++text) out8(0x3f8, (u8)*text);
}

static inline void print_number(const char* label, u64 value) {
  char digits[24];
  int at = 23;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  print(label);
  print(digits + at);
  print("\n");
}

// The keyboard controller's reset pulse: how the machine ends.
static inline void reset(void) {
  for (;;) out8(0x64, 0xfe);
}

static inline u64 read_msr(u32 index) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (u64)high << 32 | low;
}
static inline void write_msr(u32 index, u64 value) {
  __asm__ volatile("wrmsr" ::"a"((u32)value), "d"((u32)(value >> 32)), "c"(index));
}
static inline u64 read_tsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

// The boot page tables map the first GiB; this maps the fourth, where devices are, with 2 MiB pages.
static u64 device_pages[512] __attribute__((aligned(4096)));
static inline void map_devices(void) {
  for (u64 i = 0; i < 512; ++i) device_pages[i] = (0xc0000000 + (i << 21)) | 0x83;
  u64 pml4;
  __asm__ volatile("mov %%cr3, %0" : "=r"(pml4));
  u64* pdpt = (u64*)(*(u64*)pml4 & ~0xffful);
  pdpt[3] = (u64)device_pages | 3;
  __asm__ volatile("mov %0, %%cr3" ::"r"(pml4) : "memory");
}

static inline u32 read32(u64 address) { return *(volatile u32*)address; }
static inline void write32(u64 address, u32 value) { *(volatile u32*)address = value; }

#define DEVICE_WINDOW(slot) (0xd0000000ul + 0x1000ul * (slot))

// Each guest defines this; the stack is the boot protocol's 4 KiB below 0x8ff0.
void guest_main(void);
__attribute__((naked, used, section(".text.start"))) void _start(void) {
  __asm__ volatile("mov $stack_top, %rsp\n call guest_main\n hlt");
}
__asm__(".bss\n .balign 16\n .skip 16384\n stack_top:\n .text\n");
