#include "vmm/arch/x86_64/ioapic.hpp"

#include <algorithm>
#include <cstring>

namespace cube::vmm::x86_64 {
namespace {

// Registers of the indirect window (82093AA, table 1).
constexpr std::uint64_t io_register_select = 0x00;
constexpr std::uint64_t io_window = 0x10;
constexpr std::uint32_t register_id = 0;
constexpr std::uint32_t register_version = 1;
constexpr std::uint32_t register_arbitration = 2;
constexpr std::uint32_t register_redirection = 0x10;

// Fields of a redirection entry.
constexpr std::uint64_t entry_masked = 1u << 16;
constexpr std::uint64_t entry_read_only = (1u << 12) | (1u << 14);  // delivery status, remote IRR

}  // namespace

IoApic::IoApic(std::function<void(std::uint32_t, std::uint32_t)> deliver) : deliver_(std::move(deliver)) {
  state_.redirection.fill(entry_masked);
}

void IoApic::raise(std::uint32_t pin) {
  if (pin >= ioapic_pins) return;
  const std::scoped_lock lock(mutex_);
  state_.pending |= 1u << pin;
  deliver_if_unmasked(pin);
}

void IoApic::deliver_if_unmasked(std::uint32_t pin) {
  const std::uint64_t entry = state_.redirection[pin];
  if ((state_.pending & (1u << pin)) == 0 || (entry & entry_masked) != 0) return;
  state_.pending &= ~(1u << pin);
  // The message of a redirection entry: destination and its mode in the address, vector and delivery mode in
  // the data (Intel SDM volume 3, 11.11).
  const auto destination = static_cast<std::uint32_t>(entry >> 56);
  const std::uint32_t logical = entry >> 11 & 1;
  const std::uint32_t address =
      static_cast<std::uint32_t>(local_apic_address) | destination << 12 | logical << 2;
  const auto data = static_cast<std::uint32_t>(entry & 0x7ff);
  deliver_(address, data);
}

std::uint32_t IoApic::read_register() const {
  const std::uint32_t number = state_.selected;
  if (number == register_id || number == register_arbitration) return state_.id << 24;
  if (number == register_version) return 0x11 | (ioapic_pins - 1) << 16;
  if (number < register_redirection || number >= register_redirection + 2 * ioapic_pins) return 0;
  const std::uint64_t entry = state_.redirection[(number - register_redirection) / 2];
  return static_cast<std::uint32_t>(number % 2 == 0 ? entry : entry >> 32);
}

void IoApic::write_register(std::uint32_t value) {
  const std::uint32_t number = state_.selected;
  if (number == register_id) {
    state_.id = value >> 24 & 0xf;
    return;
  }
  if (number < register_redirection || number >= register_redirection + 2 * ioapic_pins) return;
  const std::uint32_t pin = (number - register_redirection) / 2;
  std::uint64_t& entry = state_.redirection[pin];
  if (number % 2 == 0) {
    entry = (entry & ~0xffffffffull) | (value & ~entry_read_only);
    deliver_if_unmasked(pin);
  } else {
    entry = (entry & 0xffffffffull) | std::uint64_t{value} << 32;
  }
}

void IoApic::read(std::uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  const std::scoped_lock lock(mutex_);
  std::uint32_t value = 0;
  if (offset == io_register_select) value = state_.selected;
  if (offset == io_window) value = read_register();
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

void IoApic::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != sizeof(std::uint32_t)) return;
  std::uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof value);
  const std::scoped_lock lock(mutex_);
  if (offset == io_register_select) state_.selected = value & 0xff;
  if (offset == io_window) write_register(value);
}

IoApic::State IoApic::save() const {
  const std::scoped_lock lock(mutex_);
  return state_;
}

void IoApic::restore(const State& state) {
  const std::scoped_lock lock(mutex_);
  state_ = state;
}

}  // namespace cube::vmm::x86_64
