// The I/O APIC of a split irqchip: the local APICs live in KVM, this redirection table in userspace
// (Intel 82093AA; KVM_CAP_SPLIT_IRQCHIP in the kernel's virt/kvm/api.rst).
//
// All pins are edge-triggered, so no end-of-interrupt needs to come back. A raised pin becomes a
// KVM_SIGNAL_MSI.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "vmm/arch/x86_64/layout.hpp"

namespace cube::vmm::x86_64 {

class IoApic {
 public:
  struct State {
    std::uint32_t selected = 0;
    std::uint32_t id = 0;
    std::uint32_t pending = 0;  ///< edges latched while their pin was masked
    std::array<std::uint64_t, ioapic_pins> redirection;
  };

  /// `deliver` takes the address and data of the message; called with the table's lock held, from any thread.
  explicit IoApic(std::function<void(std::uint32_t address, std::uint32_t data)> deliver);

  /// A rising edge on a pin. Safe from any thread.
  void raise(std::uint32_t pin);

  // MMIO of the register window.
  void read(std::uint64_t offset, std::span<std::byte> data);
  void write(std::uint64_t offset, std::span<const std::byte> data);

  State save() const;
  void restore(const State& state);

 private:
  std::uint32_t read_register() const;
  void write_register(std::uint32_t value);
  void deliver_if_unmasked(std::uint32_t pin);

  mutable std::mutex mutex_;
  State state_;
  std::function<void(std::uint32_t, std::uint32_t)> deliver_;
};

}  // namespace cube::vmm::x86_64
