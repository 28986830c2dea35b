#include "vmm/arch/x86_64/serial.hpp"

namespace cube::vmm::x86_64 {
namespace {

// Register offsets and bits of the 16550A data sheet.
constexpr std::uint16_t data_register = 0, interrupt_enable = 1, interrupt_identity = 2, line_control = 3,
                        modem_control = 4, line_status = 5, modem_status = 6, scratch = 7;
constexpr std::uint8_t divisor_latch_access = 0x80;
constexpr std::uint8_t transmitter_interrupt = 0x02;
constexpr std::uint8_t no_interrupt = 0x01, transmitter_empty_identity = 0x02, fifo_enabled = 0xc0;
constexpr std::uint8_t transmitter_empty = 0x60;      // holding and shift register
constexpr std::uint8_t carrier_ready_to_send = 0xb0;  // DCD, DSR, CTS
constexpr std::uint8_t loopback = 0x10;

constexpr std::size_t longest_line = 1024;

}  // namespace

Serial::Serial(std::function<void(std::string_view)> output, std::function<void()> raise_interrupt)
    : output_(std::move(output)), raise_interrupt_(std::move(raise_interrupt)) {}

std::uint8_t Serial::read(std::uint16_t offset) {
  const std::scoped_lock lock(mutex_);
  const bool divisor = (state_.line_control & divisor_latch_access) != 0;
  switch (offset) {
    case data_register: return divisor ? state_.divisor_low : 0;
    case interrupt_enable: return divisor ? state_.divisor_high : state_.interrupt_enable;
    case interrupt_identity:
      if (state_.transmitter_empty_pending == 0) return no_interrupt | fifo_enabled;
      state_.transmitter_empty_pending = 0;  // reading the identity acknowledges it
      return transmitter_empty_identity | fifo_enabled;
    case line_control: return state_.line_control;
    case modem_control: return state_.modem_control;
    case line_status: return transmitter_empty;
    case modem_status:
      // In loop-back mode the outputs show up as inputs: drivers probe for the chip that way.
      if ((state_.modem_control & loopback) != 0) {
        const unsigned outputs = state_.modem_control;
        return static_cast<std::uint8_t>((outputs & 1) << 5 | (outputs & 2) << 3 | (outputs & 0xc) << 4);
      }
      return carrier_ready_to_send;
    case scratch: return state_.scratch;
    default: return 0xff;
  }
}

void Serial::write(std::uint16_t offset, std::uint8_t value) {
  const std::scoped_lock lock(mutex_);
  const bool divisor = (state_.line_control & divisor_latch_access) != 0;
  switch (offset) {
    case data_register:
      if (divisor)
        state_.divisor_low = value;
      else
        transmit(value);
      break;
    case interrupt_enable:
      if (divisor) {
        state_.divisor_high = value;
      } else {
        state_.interrupt_enable = value & 0x0f;
        offer_transmitter_interrupt();
      }
      break;
    case line_control: state_.line_control = value; break;
    case modem_control: state_.modem_control = value & 0x1f; break;
    case scratch: state_.scratch = value; break;
    default: break;
  }
}

void Serial::transmit(std::uint8_t byte) {
  if ((state_.modem_control & loopback) == 0) line_ += static_cast<char>(byte);
  if (byte == '\n' || line_.size() >= longest_line) {
    if (output_) output_(line_);
    line_.clear();
  }
  offer_transmitter_interrupt();
}

// The transmitter is always empty, so enabling its interrupt or sending a byte raises it at once.
void Serial::offer_transmitter_interrupt() {
  if ((state_.interrupt_enable & transmitter_interrupt) == 0) return;
  state_.transmitter_empty_pending = 1;
  raise_interrupt_();
}

Serial::State Serial::save() const {
  const std::scoped_lock lock(mutex_);
  return state_;
}

void Serial::restore(const State& state) {
  const std::scoped_lock lock(mutex_);
  state_ = state;
}

}  // namespace cube::vmm::x86_64
