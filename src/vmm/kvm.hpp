// Owners of the KVM descriptors, and the only place that issues KVM ioctls.
//
// The order of calls is worth milliseconds. Since Linux 6.18 (commit 7d9a0273c459) registering an in-kernel
// device starts an SRCU grace period that a later memory slot change waits for: 7.5 ms measured with the
// naive order, 0.3 ms with this one. So a virtual machine is always made in this order:
//   1. create_vm   2. split irqchip (registers nothing on a bus)   3. a vCPU   4. memory slots   5. more
//   vCPUs
// so that what does not depend on its shape can be made ahead.
// There is no in-kernel PIC, I/O APIC or PIT and no ioeventfd, so closing takes 0.2 ms instead of 15-25 ms.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <span>
#include <string>
#include <vector>

#include "vmm/kvm_abi.hpp"

namespace cube::vmm {

/// Zeroed storage for KVM's structs with a trailing array.
template <class Header, class Entry>
class FlexibleStruct {
 public:
  explicit FlexibleStruct(std::size_t capacity) : storage_(sizeof(Header) + capacity * sizeof(Entry)) {}
  Header* get() { return reinterpret_cast<Header*>(storage_.data()); }
  Header* operator->() { return get(); }
  Entry* entries() { return reinterpret_cast<Entry*>(storage_.data() + sizeof(Header)); }

 private:
  std::vector<std::byte> storage_;
};

class Vcpu {
 public:
  Vcpu(Fd fd, kvm_run* run, std::size_t run_bytes) : fd_(std::move(fd)), run_(run), run_bytes_(run_bytes) {}
  Vcpu(Vcpu&& other) noexcept
      : fd_(std::move(other.fd_)), run_(std::exchange(other.run_, nullptr)), run_bytes_(other.run_bytes_) {}
  Vcpu& operator=(Vcpu&&) = delete;
  ~Vcpu();

  kvm_run& shared() { return *run_; }
  std::span<std::byte> shared_bytes() { return {reinterpret_cast<std::byte*>(run_), run_bytes_}; }

  /// 0, or the errno of KVM_RUN (EINTR after a kick).
  int run();

  /// Get and set one fixed-size struct; `name` is for the error.
  template <class T>
  Result<T> get(unsigned long request, const char* name) const {
    T value{};
    CUBE_TRY(call(request, &value, name));
    return value;
  }
  template <class T>
  Result<void> set(unsigned long request, const T& value, const char* name) {
    T copy = value;  // some "set" ioctls are declared to write
    return call(request, &copy, name);
  }
  Result<void> call(unsigned long request, void* argument, const char* name) const;

  /// Fills the nested page tables (KVM_PRE_FAULT_MEMORY); stops at what cannot be mapped.
  Result<void> pre_fault(std::uint64_t guest_address, std::uint64_t bytes) const;

  /// The number of entries KVM took, which is the index of the first it refused.
  Result<int> transfer_msrs(unsigned long request, kvm_msrs* msrs, const char* name) const;

 private:
  Fd fd_;
  kvm_run* run_;
  std::size_t run_bytes_;
};

class Vm {
 public:
  explicit Vm(Fd fd) : fd_(std::move(fd)) {}

  Result<void> set_memory_slot(std::uint32_t slot, std::uint64_t guest_address, std::span<std::byte> host);
  Result<void> enable_split_irqchip(std::uint32_t pins);
  Result<Vcpu> create_vcpu(std::uint32_t id, std::size_t run_bytes);
  Result<void> set_tss_address(std::uint64_t guest_address);
  Result<void> set_identity_map_address(std::uint64_t guest_address);

  /// Delivers a message-signalled interrupt. Safe from any thread.
  Result<void> signal_msi(std::uint32_t address, std::uint32_t data);

  Result<kvm_clock_data> clock() const;
  Result<void> set_clock(const kvm_clock_data& clock);

 private:
  Fd fd_;
};

/// Retries what a signal or a busy host interrupts.
Result<Vm> create_vm(int kvm_fd);
Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(int kvm_fd);
Result<std::vector<std::uint32_t>> msr_index_list(int kvm_fd);

/// Whether this host's KVM has an extension.
bool has_extension(int kvm_fd, int capability);

/// The size of the run structure that a vCPU shares with its thread.
Result<std::size_t> vcpu_run_bytes(int kvm_fd);

}  // namespace cube::vmm
