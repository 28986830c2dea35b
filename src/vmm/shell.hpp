// A machine before there is a guest in it: what a pool makes ahead of time.
#pragma once

#include <cstdint>
#include <cube/vmm.hpp>
#include <memory>
#include <vector>

#include "vmm/guest_memory.hpp"
#include "vmm/kvm.hpp"

namespace cube::vmm {

struct HostProfile {
  std::vector<kvm_cpuid_entry2> cpuid;  ///< what KVM supports here
  std::vector<std::uint32_t> msrs;      ///< those worth saving, in the order to restore them in
  std::uint64_t cpu_fingerprint = 0;
  std::size_t vcpu_run_bytes = 0;
  bool pre_faults = false;  ///< KVM can fill nested page tables ahead of the guest
};

/// What KVM offers every machine of this host. Asking takes 0.3 ms, nearly as long as making a shell, so
/// whoever makes many asks once.
Result<std::shared_ptr<const HostProfile>> examine_host(int kvm_fd);

/// What every machine begins with, whatever its shape will be.
struct ShellCore {
  Vm vm;
  std::vector<Vcpu> vcpus;  ///< the first

  static Result<ShellCore> make(int kvm_fd, const HostProfile& host);
};

class Shell {
 public:
  static Result<std::unique_ptr<Shell>> make(ShellCore core, std::uint32_t vcpu_count,
                                             std::uint64_t memory_bytes,
                                             std::shared_ptr<const HostProfile> host);

  Shell(std::shared_ptr<const HostProfile> host, std::shared_ptr<GuestMemory> memory, ShellCore core)
      : host_(std::move(host)), memory_(std::move(memory)), core_(std::move(core)) {}

  std::uint32_t vcpu_count() const { return static_cast<std::uint32_t>(core_.vcpus.size()); }
  std::uint64_t memory_bytes() const { return memory_->bytes(); }

  const HostProfile& host() const { return *host_; }
  std::shared_ptr<const GuestMemory> memory() const { return memory_; }
  Result<void> map_image(const MemoryImage& image) { return memory_->map_image(image); }

  /// Makes pages present for host and guest, as far as that can be done. After the vCPUs have their state:
  /// how KVM maps memory depends on it.
  void populate(std::span<const PageRun> working_set);
  Vm& vm() { return core_.vm; }
  Vcpu& vcpu(std::size_t index) { return core_.vcpus[index]; }

 private:
  Result<void> assemble(std::uint32_t vcpu_count);
  void populate_host(std::span<const PageRun> working_set);
  void pre_fault(std::span<const PageRun> working_set);

  // Destroyed from the bottom: KVM before the memory it maps.
  std::shared_ptr<const HostProfile> host_;
  std::shared_ptr<GuestMemory> memory_;
  ShellCore core_;
};

}  // namespace cube::vmm
