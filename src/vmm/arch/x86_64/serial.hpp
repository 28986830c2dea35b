// A 16550A serial port, output only: the guest's console while it boots. Not a channel for data.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace cube::vmm::x86_64 {

class Serial {
 public:
  struct State {
    std::uint8_t interrupt_enable = 0, line_control = 0, modem_control = 0, scratch = 0;
    std::uint8_t divisor_low = 12, divisor_high = 0;
    std::uint8_t transmitter_empty_pending = 0;
  };

  /// `output` gets whole lines, or 1 KiB when none ends sooner.
  Serial(std::function<void(std::string_view)> output, std::function<void()> raise_interrupt);

  std::uint8_t read(std::uint16_t offset);
  void write(std::uint16_t offset, std::uint8_t value);

  State save() const;
  void restore(const State& state);

 private:
  void transmit(std::uint8_t byte);
  void offer_transmitter_interrupt();

  mutable std::mutex mutex_;
  State state_;
  std::string line_;
  std::function<void(std::string_view)> output_;
  std::function<void()> raise_interrupt_;
};

}  // namespace cube::vmm::x86_64
