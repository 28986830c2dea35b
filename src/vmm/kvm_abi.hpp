// <linux/kvm.h>, repaired for C++.
//
// In linux-libc-dev before 6.4 __DECLARE_FLEX_ARRAY wraps the array in a struct with an empty first member,
// whose size is 0 in C and 1 in C++. The sizes of kvm_cpuid2, kvm_msrs and others then differ, and with them
// the ioctl numbers that encode them: KVM answers EINVAL. A plain zero-length array gives C's layout.
#pragma once

#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <linux/kvm.h>
#pragma GCC diagnostic pop

// Linux 6.11; the headers may be older.
#ifndef KVM_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
struct kvm_pre_fault_memory {
  __u64 gpa;
  __u64 size;
  __u64 flags;
  __u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_xsave) == 4096);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_signal_mask) == 4);
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_vcpu_events) == 64);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_clock_data) == 48);
static_assert(sizeof(kvm_pre_fault_memory) == 64);
