#include "vmm/kvm.hpp"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cube/vmm.hpp>

namespace cube::vmm {
namespace {

Result<void> control(int fd, unsigned long request, void* argument, const char* name) {
  for (;;) {
    if (::ioctl(fd, request, argument) >= 0) return {};
    if (errno != EINTR) return os_error(errno, std::string(name) + " failed");
  }
}

}  // namespace

Vcpu::~Vcpu() {
  if (run_ != nullptr) ::munmap(run_, run_bytes_);
}

int Vcpu::run() { return ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

Result<void> Vcpu::call(unsigned long request, void* argument, const char* name) const {
  return control(fd_.get(), request, argument, name);
}

Result<void> Vcpu::pre_fault(std::uint64_t guest_address, std::uint64_t bytes) const {
  kvm_pre_fault_memory range{};
  range.gpa = guest_address;
  range.size = bytes;
  // A call that did a part succeeds, and leaves the rest in `range`.
  while (range.size > 0) CUBE_TRY(call(KVM_PRE_FAULT_MEMORY, &range, "KVM_PRE_FAULT_MEMORY"));
  return {};
}

Result<int> Vcpu::transfer_msrs(unsigned long request, kvm_msrs* msrs, const char* name) const {
  const int count = ::ioctl(fd_.get(), request, msrs);
  if (count < 0) return os_error(errno, std::string(name) + " failed");
  return count;
}

Result<void> Vm::set_memory_slot(std::uint32_t slot, std::uint64_t guest_address, std::span<std::byte> host) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = guest_address;
  region.memory_size = host.size();
  region.userspace_addr = reinterpret_cast<std::uint64_t>(host.data());
  return control(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

Result<void> Vm::enable_split_irqchip(std::uint32_t pins) {
  kvm_enable_cap capability{};
  capability.cap = KVM_CAP_SPLIT_IRQCHIP;
  capability.args[0] = pins;
  return control(fd_.get(), KVM_ENABLE_CAP, &capability, "KVM_CAP_SPLIT_IRQCHIP");
}

Result<Vcpu> Vm::create_vcpu(std::uint32_t id, std::size_t run_bytes) {
  Fd vcpu(::ioctl(fd_.get(), KVM_CREATE_VCPU, id));
  if (!vcpu) return os_error(errno, "KVM_CREATE_VCPU failed");
  void* run = ::mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get(), 0);
  if (run == MAP_FAILED) return os_error(errno, "cannot map the vCPU's run structure");
  return Vcpu(std::move(vcpu), static_cast<kvm_run*>(run), run_bytes);
}

Result<void> Vm::set_tss_address(std::uint64_t guest_address) {
  if (::ioctl(fd_.get(), KVM_SET_TSS_ADDR, guest_address) < 0)
    return os_error(errno, "KVM_SET_TSS_ADDR failed");
  return {};
}

Result<void> Vm::set_identity_map_address(std::uint64_t guest_address) {
  return control(fd_.get(), KVM_SET_IDENTITY_MAP_ADDR, &guest_address, "KVM_SET_IDENTITY_MAP_ADDR");
}

Result<void> Vm::signal_msi(std::uint32_t address, std::uint32_t data) {
  kvm_msi message{};
  message.address_lo = address;
  message.data = data;
  return control(fd_.get(), KVM_SIGNAL_MSI, &message, "KVM_SIGNAL_MSI");
}

Result<kvm_clock_data> Vm::clock() const {
  kvm_clock_data clock{};
  CUBE_TRY(control(fd_.get(), KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK"));
  return clock;
}

Result<void> Vm::set_clock(const kvm_clock_data& clock) {
  kvm_clock_data copy = clock;
  return control(fd_.get(), KVM_SET_CLOCK, &copy, "KVM_SET_CLOCK");
}

Result<Vm> create_vm(int kvm_fd) {
  for (int attempt = 0;; ++attempt) {
    Fd vm(::ioctl(kvm_fd, KVM_CREATE_VM, 0));
    if (vm) return Vm(std::move(vm));
    if ((errno != EINTR && errno != EAGAIN) || attempt == 16)
      return os_error(errno, "KVM_CREATE_VM failed", "/dev/kvm");
  }
}

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(int kvm_fd) {
  for (unsigned capacity = 128; capacity <= 1024; capacity *= 2) {
    FlexibleStruct<kvm_cpuid2, kvm_cpuid_entry2> cpuid(capacity);
    cpuid->nent = capacity;
    const auto result = control(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid.get(), "KVM_GET_SUPPORTED_CPUID");
    if (result.ok()) return std::vector(cpuid.entries(), cpuid.entries() + cpuid->nent);
    if (result.error().os_errno != E2BIG) return result.error();
  }
  return make_error(ErrorCode::internal, "KVM reports more than 1024 CPUID leaves");
}

Result<std::vector<std::uint32_t>> msr_index_list(int kvm_fd) {
  FlexibleStruct<kvm_msr_list, std::uint32_t> list(1024);
  list->nmsrs = 1024;
  CUBE_TRY(control(kvm_fd, KVM_GET_MSR_INDEX_LIST, list.get(), "KVM_GET_MSR_INDEX_LIST"));
  return std::vector(list.entries(), list.entries() + list->nmsrs);
}

bool has_extension(int kvm_fd, int capability) {
  return ::ioctl(kvm_fd, KVM_CHECK_EXTENSION, capability) > 0;
}

Result<std::size_t> vcpu_run_bytes(int kvm_fd) {
  const int bytes = ::ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (bytes < static_cast<int>(sizeof(kvm_run))) return os_error(errno, "KVM_GET_VCPU_MMAP_SIZE failed");
  return static_cast<std::size_t>(bytes);
}

Result<void> check_kvm(int kvm_fd) {
  if (::ioctl(kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    return make_error(ErrorCode::unavailable, "not a KVM device of API version 12", "/dev/kvm");
  constexpr std::pair<int, const char*> needed[] = {
      {KVM_CAP_USER_MEMORY, "user memory"},
      {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"},
      {KVM_CAP_SIGNAL_MSI, "signal MSI"},
      {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
      {KVM_CAP_ADJUST_CLOCK, "adjust clock"},
      {KVM_CAP_VCPU_EVENTS, "vCPU events"},
      {KVM_CAP_XSAVE, "xsave"},
  };
  for (const auto& [capability, name] : needed)
    if (!has_extension(kvm_fd, capability))
      return make_error(ErrorCode::unavailable, std::string("this KVM lacks ") + name, "/dev/kvm");
  return {};
}

}  // namespace cube::vmm
