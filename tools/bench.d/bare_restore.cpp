#include "bare_restore.hpp"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "vmm/kvm_abi.hpp"

namespace cube::bench {
namespace {

constexpr std::uint64_t identity_map_address = 0xfffbc000, tss_address = 0xfffbd000;
constexpr unsigned pins = 24, most_entries = 256, most_msrs = 512;

int must(int result, const char* what) {
  if (result >= 0) return result;
  std::perror(what);
  std::exit(1);
}

void* must_map(void* address, std::size_t bytes, int flags, int fd) {
  void* mapped = ::mmap(address, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (mapped == MAP_FAILED) {
    std::perror("mmap");
    std::exit(1);
  }
  return mapped;
}

}  // namespace

struct BareRestore::Vm {
  int fd = -1;
  void* memory = nullptr;
  std::uint64_t memory_bytes = 0;
  std::size_t run_bytes = 0;
  struct Vcpu {
    int fd = -1;
    void* run = nullptr;
  };
  std::vector<Vcpu> vcpus;
};

struct BareRestore::State {
  std::vector<std::byte> cpuid =
      std::vector<std::byte>(sizeof(kvm_cpuid2) + most_entries * sizeof(kvm_cpuid_entry2));
  std::vector<std::byte> msrs = std::vector<std::byte>(sizeof(kvm_msrs) + most_msrs * sizeof(kvm_msr_entry));
  std::size_t run_bytes = 0;
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::vector<std::byte> xsave = std::vector<std::byte>(4096);
  kvm_xcrs xcrs{};
  kvm_debugregs debugregs{};
  kvm_lapic_state lapic{};
  kvm_vcpu_events events{};
  kvm_clock_data clock{};
};

BareRestore::BareRestore(int kvm_fd, unsigned vcpu_count, std::uint64_t memory_bytes, int image_fd)
    : kvm_fd_(kvm_fd),
      vcpu_count_(vcpu_count),
      memory_bytes_(memory_bytes),
      image_fd_(image_fd),
      state_(std::make_unique<State>()) {
  State& state = *state_;
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(state.cpuid.data());
  cpuid->nent = most_entries;
  must(::ioctl(kvm_fd_, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
  state.run_bytes = static_cast<std::size_t>(must(::ioctl(kvm_fd_, KVM_GET_VCPU_MMAP_SIZE, 0), "mmap size"));

  Vm vm;
  Steps unused;
  create(vm, unused);
  const int vcpu = vm.vcpus.front().fd;
  must(::ioctl(vcpu, KVM_GET_MP_STATE, &state.mp_state), "KVM_GET_MP_STATE");
  must(::ioctl(vcpu, KVM_GET_REGS, &state.regs), "KVM_GET_REGS");
  must(::ioctl(vcpu, KVM_GET_SREGS, &state.sregs), "KVM_GET_SREGS");
  must(::ioctl(vcpu, KVM_GET_XSAVE, state.xsave.data()), "KVM_GET_XSAVE");
  ::ioctl(vcpu, KVM_GET_XCRS, &state.xcrs);  // a processor without XSAVE has none
  must(::ioctl(vcpu, KVM_GET_DEBUGREGS, &state.debugregs), "KVM_GET_DEBUGREGS");
  must(::ioctl(vcpu, KVM_GET_LAPIC, &state.lapic), "KVM_GET_LAPIC");
  must(::ioctl(vcpu, KVM_GET_VCPU_EVENTS, &state.events), "KVM_GET_VCPU_EVENTS");
  must(::ioctl(vm.fd, KVM_GET_CLOCK, &state.clock), "KVM_GET_CLOCK");
  state.clock.flags = 0;

  // As many of the MSRs as KVM gives back and takes.
  std::vector<std::uint32_t> list(1 + most_msrs);
  list[0] = most_msrs;
  must(::ioctl(kvm_fd_, KVM_GET_MSR_INDEX_LIST, list.data()), "KVM_GET_MSR_INDEX_LIST");
  auto* msrs = reinterpret_cast<kvm_msrs*>(state.msrs.data());
  auto* entries = reinterpret_cast<kvm_msr_entry*>(state.msrs.data() + sizeof(kvm_msrs));
  std::uint32_t taken = 0;
  for (std::uint32_t i = 0; i < list[0]; ++i) {
    std::vector<std::byte> one(sizeof(kvm_msrs) + sizeof(kvm_msr_entry));
    auto* single = reinterpret_cast<kvm_msrs*>(one.data());
    auto* entry = reinterpret_cast<kvm_msr_entry*>(one.data() + sizeof(kvm_msrs));
    single->nmsrs = 1;
    entry->index = list[i + 1];
    if (::ioctl(vcpu, KVM_GET_MSRS, single) == 1 && ::ioctl(vcpu, KVM_SET_MSRS, single) == 1)
      entries[taken++] = *entry;
  }
  msrs->nmsrs = taken;
  destroy(vm, unused);
}

BareRestore::~BareRestore() = default;

void BareRestore::run(Steps& restore, Steps& destroyed) {
  Vm vm;
  create(vm, restore);
  fill(vm, restore);
  restore.end_round();
  destroy(vm, destroyed);
  destroyed.end_round();
}

// Memory slots before the irqchip, vCPUs last (src/vmm/kvm.hpp says why).
void BareRestore::create(Vm& vm, Steps& steps) {
  vm.memory_bytes = memory_bytes_;
  vm.run_bytes = state_->run_bytes;
  vm.fd =
      steps.time("KVM_CREATE_VM", [&] { return must(::ioctl(kvm_fd_, KVM_CREATE_VM, 0), "KVM_CREATE_VM"); });
  vm.memory = steps.time("mmap of the image", [&] {
    return must_map(nullptr, memory_bytes_, MAP_PRIVATE | MAP_NORESERVE, image_fd_);
  });
  steps.time("KVM_SET_USER_MEMORY_REGION", [&] {
    kvm_userspace_memory_region region{};
    region.memory_size = memory_bytes_;
    region.userspace_addr = reinterpret_cast<std::uint64_t>(vm.memory);
    must(::ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  });
  steps.time("TSS, identity map, split irqchip", [&] {
    std::uint64_t address = identity_map_address;
    must(::ioctl(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, &address), "KVM_SET_IDENTITY_MAP_ADDR");
    must(::ioctl(vm.fd, KVM_SET_TSS_ADDR, tss_address), "KVM_SET_TSS_ADDR");
    kvm_enable_cap capability{};
    capability.cap = KVM_CAP_SPLIT_IRQCHIP;
    capability.args[0] = pins;
    must(::ioctl(vm.fd, KVM_ENABLE_CAP, &capability), "KVM_CAP_SPLIT_IRQCHIP");
  });
  for (unsigned i = 0; i < vcpu_count_; ++i) {
    Vm::Vcpu vcpu;
    vcpu.fd = steps.time("KVM_CREATE_VCPU",
                         [&] { return must(::ioctl(vm.fd, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU"); });
    vcpu.run =
        steps.time("mmap of kvm_run", [&] { return must_map(nullptr, vm.run_bytes, MAP_SHARED, vcpu.fd); });
    steps.time("KVM_SET_CPUID2",
               [&] { must(::ioctl(vcpu.fd, KVM_SET_CPUID2, state_->cpuid.data()), "KVM_SET_CPUID2"); });
    vm.vcpus.push_back(vcpu);
  }
}

void BareRestore::fill(Vm& vm, Steps& steps) {
  State& state = *state_;
  for (const Vm::Vcpu& vcpu : vm.vcpus) {
    const auto set = [&](const char* name, unsigned long request, void* value) {
      steps.time(name, [&] { must(::ioctl(vcpu.fd, request, value), name); });
    };
    set("KVM_SET_MP_STATE", KVM_SET_MP_STATE, &state.mp_state);
    set("KVM_SET_REGS", KVM_SET_REGS, &state.regs);
    set("KVM_SET_SREGS", KVM_SET_SREGS, &state.sregs);
    if (state.xcrs.nr_xcrs > 0) set("KVM_SET_XCRS", KVM_SET_XCRS, &state.xcrs);
    set("KVM_SET_XSAVE", KVM_SET_XSAVE, state.xsave.data());
    set("KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, &state.debugregs);
    set("KVM_SET_LAPIC", KVM_SET_LAPIC, &state.lapic);
    set("KVM_SET_MSRS", KVM_SET_MSRS, state.msrs.data());
    set("KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, &state.events);
    steps.time("KVM_KVMCLOCK_CTRL", [&] { ::ioctl(vcpu.fd, KVM_KVMCLOCK_CTRL, 0); });
  }
  steps.time("KVM_SET_CLOCK", [&] { must(::ioctl(vm.fd, KVM_SET_CLOCK, &state.clock), "KVM_SET_CLOCK"); });
}

void BareRestore::destroy(Vm& vm, Steps& steps) {
  steps.time("munmap and close of the vCPUs", [&] {
    for (const Vm::Vcpu& vcpu : vm.vcpus) {
      ::munmap(vcpu.run, vm.run_bytes);
      ::close(vcpu.fd);
    }
  });
  steps.time("close of the VM", [&] { ::close(vm.fd); });
  steps.time("munmap of the memory", [&] { ::munmap(vm.memory, vm.memory_bytes); });
}

}  // namespace cube::bench
