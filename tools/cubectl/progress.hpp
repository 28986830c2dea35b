// How far a long copy is, on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace cube::cubectl {

class Progress {
 public:
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A new file; size 0 if it is not known.
  void begin(std::string name, std::uint64_t size);

  void advance(std::uint64_t bytes);

  /// Removes the line from the terminal, for others to write there.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  bool enabled_;
  bool drawn_ = false;
  std::string name_;
  std::uint64_t size_ = 0, done_ = 0, total_ = 0;
  Clock::time_point began_, next_;
};

/// "big.iso  45%  22.5 MiB of 50.0 MiB  11.2 MiB/s", within `width` columns.
std::string progress_line(const std::string& name, std::uint64_t done, std::uint64_t size,
                          double bytes_per_second, std::size_t width);

}  // namespace cube::cubectl
