#include "vmm/arch/x86_64/vcpu_state.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "vmm/arch/x86_64/layout.hpp"

namespace cube::vmm::x86_64 {
namespace {

constexpr std::uint32_t msr_tsc = 0x10, msr_misc_enable = 0x1a0, msr_mtrr_default_type = 0x2ff,
                        msr_tsc_deadline = 0x6e0;
constexpr std::size_t msrs_per_call = 256;

struct MsrRange {
  std::uint32_t first, last;
};

// Intel SDM volume 4 and the kernel's msr-index.h. Missing one of these has broken real guests after a
// restore: XSS (XRSTORS faults), the KVM range (asynchronous page faults), TSC_AUX (getcpu).
constexpr MsrRange saved_msrs[] = {
    {msr_tsc, msr_tsc},
    {0x1b, 0x1b},  // TSC, APIC base
    {0x3a, 0x3b},
    {0x48, 0x48},  // feature control, TSC adjust, speculation control
    {0x122, 0x122},
    {0x174, 0x176},  // TSX control, SYSENTER
    {0x179, 0x17b},
    {0x1a0, 0x1a0},  // machine check, miscellaneous enables
    {0x200, 0x26f},
    {0x277, 0x277},  // MTRR, PAT
    {0x2ff, 0x2ff},
    {0x400, 0x47f},  // default memory type, machine-check banks
    {0x6a0, 0x6a8},
    {0x6e0, 0x6e0},  // control-flow enforcement, TSC deadline
    {0xda0, 0xda0},  // XSS
    {0xc0000080, 0xc0000084},
    {0xc0000100, 0xc0000104},  // EFER, STAR..., FS/GS bases, TSC_AUX
    {0xc001011f, 0xc001011f},
    {0x4b564d00, 0x4b564dff},  // AMD virtual speculation control, KVM
    {0x11, 0x12},              // kvm-clock of old
};

Result<std::vector<kvm_msr_entry>> read_msrs(const Vcpu& vcpu, const std::vector<std::uint32_t>& wanted) {
  std::vector<kvm_msr_entry> values;
  FlexibleStruct<kvm_msrs, kvm_msr_entry> batch(msrs_per_call);
  for (std::size_t next = 0; next < wanted.size();) {
    const std::size_t count = std::min(msrs_per_call, wanted.size() - next);
    batch->nmsrs = static_cast<std::uint32_t>(count);
    for (std::size_t i = 0; i < count; ++i) batch.entries()[i] = {wanted[next + i], 0, 0};
    const auto taken = vcpu.transfer_msrs(KVM_GET_MSRS, batch.get(), "KVM_GET_MSRS");
    if (!taken) return taken.error();
    values.insert(values.end(), batch.entries(), batch.entries() + *taken);
    next += static_cast<std::size_t>(*taken);
    // KVM lists some MSRs that the guest's CPUID makes unreadable: leave those out.
    if (static_cast<std::size_t>(*taken) < count) ++next;
  }
  return values;
}

Result<void> write_msrs(Vcpu& vcpu, const std::vector<kvm_msr_entry>& values) {
  FlexibleStruct<kvm_msrs, kvm_msr_entry> batch(msrs_per_call);
  for (std::size_t next = 0; next < values.size();) {
    const std::size_t count = std::min(msrs_per_call, values.size() - next);
    batch->nmsrs = static_cast<std::uint32_t>(count);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(next), count, batch.entries());
    const auto taken = vcpu.transfer_msrs(KVM_SET_MSRS, batch.get(), "KVM_SET_MSRS");
    if (!taken) return taken.error();
    next += static_cast<std::size_t>(*taken);
    if (static_cast<std::size_t>(*taken) < count) {
      if (values[next].data != 0) {
        char index[16];
        std::snprintf(index, sizeof index, "%#x", values[next].index);
        return make_error(ErrorCode::conflict, "this processor does not take a saved register",
                          std::string("MSR ") + index);
      }
      ++next;  // a read-only zero
    }
  }
  return {};
}

}  // namespace

std::vector<std::uint32_t> msrs_to_save(const std::vector<std::uint32_t>& known) {
  std::vector<std::uint32_t> wanted;
  for (std::uint32_t index : known)
    if (std::ranges::any_of(saved_msrs,
                            [&](MsrRange range) { return range.first <= index && index <= range.last; }))
      wanted.push_back(index);
  if (std::ranges::find(wanted, msr_tsc_deadline) == wanted.end()) wanted.push_back(msr_tsc_deadline);
  // The deadline is only taken when the local APIC timer is in deadline mode and the TSC is already right.
  std::ranges::stable_partition(wanted, [](std::uint32_t index) { return index != msr_tsc_deadline; });
  return wanted;
}

// MP_STATE first, since reading it settles pending INIT and SIPI in the local APIC; events last.
Result<VcpuState> save_vcpu(const Vcpu& vcpu, const std::vector<std::uint32_t>& msrs) {
  VcpuState state;
  VcpuRegisters& registers = state.registers;
  CUBE_TRY(vcpu.call(KVM_GET_MP_STATE, &registers.mp_state, "KVM_GET_MP_STATE"));
  CUBE_TRY(vcpu.call(KVM_GET_REGS, &registers.regs, "KVM_GET_REGS"));
  CUBE_TRY(vcpu.call(KVM_GET_SREGS, &registers.sregs, "KVM_GET_SREGS"));
  CUBE_TRY(vcpu.call(KVM_GET_XSAVE, &registers.xsave, "KVM_GET_XSAVE"));
  // Without XSAVE there are none, and KVM refuses to be asked.
  const auto xcrs = vcpu.call(KVM_GET_XCRS, &registers.xcrs, "KVM_GET_XCRS");
  if (!xcrs.ok() && xcrs.error().os_errno != EINVAL) return xcrs.error();
  CUBE_TRY(vcpu.call(KVM_GET_DEBUGREGS, &registers.debugregs, "KVM_GET_DEBUGREGS"));
  CUBE_TRY(vcpu.call(KVM_GET_LAPIC, &registers.lapic, "KVM_GET_LAPIC"));
  auto values = read_msrs(vcpu, msrs);
  if (!values) return std::move(values).error();
  state.msrs = std::move(*values);
  CUBE_TRY(vcpu.call(KVM_GET_VCPU_EVENTS, &registers.events, "KVM_GET_VCPU_EVENTS"));
  return state;
}

// The local APIC after SREGS (which hold its base), MSRs after the local APIC (the TSC deadline arms its
// timer), events after REGS (which clear pending exceptions).
Result<void> restore_vcpu(Vcpu& vcpu, const VcpuState& state) {
  const VcpuRegisters& registers = state.registers;
  CUBE_TRY(vcpu.set(KVM_SET_MP_STATE, registers.mp_state, "KVM_SET_MP_STATE"));
  CUBE_TRY(vcpu.set(KVM_SET_REGS, registers.regs, "KVM_SET_REGS"));
  CUBE_TRY(vcpu.set(KVM_SET_SREGS, registers.sregs, "KVM_SET_SREGS"));
  if (registers.xcrs.nr_xcrs > 0) CUBE_TRY(vcpu.set(KVM_SET_XCRS, registers.xcrs, "KVM_SET_XCRS"));
  CUBE_TRY(vcpu.set(KVM_SET_XSAVE, registers.xsave, "KVM_SET_XSAVE"));
  CUBE_TRY(vcpu.set(KVM_SET_DEBUGREGS, registers.debugregs, "KVM_SET_DEBUGREGS"));
  CUBE_TRY(vcpu.set(KVM_SET_LAPIC, registers.lapic, "KVM_SET_LAPIC"));
  CUBE_TRY(write_msrs(vcpu, state.msrs));
  CUBE_TRY(vcpu.set(KVM_SET_VCPU_EVENTS, registers.events, "KVM_SET_VCPU_EVENTS"));
  // Tells the guest it was stopped, so that its watchdogs forgive; refused by guests without kvm-clock.
  [[maybe_unused]] const auto ignored = vcpu.call(KVM_KVMCLOCK_CTRL, nullptr, "KVM_KVMCLOCK_CTRL");
  return {};
}

Result<void> set_cpuid(Vcpu& vcpu, const std::vector<kvm_cpuid_entry2>& entries) {
  FlexibleStruct<kvm_cpuid2, kvm_cpuid_entry2> cpuid(entries.size());
  cpuid->nent = static_cast<std::uint32_t>(entries.size());
  std::ranges::copy(entries, cpuid.entries());
  return vcpu.call(KVM_SET_CPUID2, cpuid.get(), "KVM_SET_CPUID2");
}

Result<void> set_boot_state(Vcpu& vcpu, std::uint64_t entry) {
  auto current = vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS");
  if (!current) return std::move(current).error();
  kvm_sregs sregs = *current;
  const kvm_segment code{.base = 0,
                         .limit = 0xffffffff,
                         .selector = 0x10,
                         .type = 11,
                         .present = 1,
                         .dpl = 0,
                         .db = 0,
                         .s = 1,
                         .l = 1,
                         .g = 1,
                         .avl = 0,
                         .unusable = 0,
                         .padding = 0};
  kvm_segment data = code;
  data.selector = 0x18;
  data.type = 3;
  data.db = 1;
  data.l = 0;
  kvm_segment task = code;
  task.limit = 0xffff;
  task.selector = 0x20;
  task.s = task.l = task.g = 0;
  sregs.cs = code;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.tr = task;
  sregs.gdt.base = gdt_address;
  sregs.gdt.limit = 5 * 8 - 1;
  sregs.idt.base = idt_address;
  sregs.idt.limit = 7;
  sregs.cr0 = 0x80000011;  // paging, extension type, protection
  sregs.cr3 = pml4_address;
  sregs.cr4 = 0x20;    // physical address extension
  sregs.efer = 0x500;  // long mode enabled and active
  CUBE_TRY(vcpu.set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"));

  kvm_regs regs{};
  regs.rip = entry;
  regs.rsi = boot_params_address;
  regs.rsp = regs.rbp = boot_stack_address;
  regs.rflags = 2;
  CUBE_TRY(vcpu.set(KVM_SET_REGS, regs, "KVM_SET_REGS"));

  kvm_fpu fpu{};
  fpu.fcw = 0x37f;
  fpu.mxcsr = 0x1f80;
  CUBE_TRY(vcpu.set(KVM_SET_FPU, fpu, "KVM_SET_FPU"));
  // Fast string operations on; memory is write-back by default.
  return write_msrs(vcpu, {{msr_misc_enable, 0, 1}, {msr_mtrr_default_type, 0, 1u << 11 | 6}});
}

}  // namespace cube::vmm::x86_64
