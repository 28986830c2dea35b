// The user's terminal: its size, and raw mode that always ends.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <optional>

namespace cube::cubectl {

struct TerminalSize {
  std::uint16_t columns = 80;
  std::uint16_t rows = 24;
};

/// Nothing if the descriptor is no terminal. A terminal that does not know its size has 80 by 24.
std::optional<TerminalSize> terminal_size(int descriptor);

/// While one exists, the terminal hands over every key at once and prints what it gets as it is. Its former
/// mode comes back when this goes, and also when the process exits or crashes. There can be one at a time.
class RawTerminal {
 public:
  static Result<RawTerminal> enter(int descriptor);
  RawTerminal(RawTerminal&& other) noexcept : active_(std::exchange(other.active_, false)) {}
  RawTerminal& operator=(RawTerminal&&) = delete;
  ~RawTerminal();

 private:
  RawTerminal() = default;
  bool active_ = true;
};

}  // namespace cube::cubectl
