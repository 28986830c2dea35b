#include "progress.hpp"

#include <cstdio>

#include "human.hpp"
#include "terminal.hpp"

namespace cube::cubectl {
namespace {

constexpr std::chrono::milliseconds patience{700};  // a copy that is done by then shows nothing
constexpr std::chrono::milliseconds interval{100};

}  // namespace

std::string progress_line(const std::string& name, std::uint64_t done, std::uint64_t size,
                          double bytes_per_second, std::size_t width) {
  std::string numbers;
  if (size > 0)
    numbers =
        std::to_string(static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(size))) +
        "%  ";
  numbers += byte_size(done);
  if (size > 0) numbers += " of " + byte_size(size);
  numbers += "  " + byte_size(static_cast<std::uint64_t>(bytes_per_second)) + "/s";
  const std::size_t taken = numbers.size() + 2;
  const std::string shown = cut_to_width(printable(name), width > taken ? width - taken : 0);
  return shown.empty() ? numbers : shown + "  " + numbers;
}

Progress::Progress()
    : enabled_(terminal_size(2).has_value()), began_(Clock::now()), next_(began_ + patience) {}

void Progress::begin(std::string name, std::uint64_t size) {
  name_ = std::move(name);
  size_ = size;
  done_ = 0;
}

void Progress::advance(std::uint64_t bytes) {
  done_ += bytes;
  total_ += bytes;
  const auto now = Clock::now();
  if (enabled_ && now >= next_) draw(now);
}

void Progress::draw(Clock::time_point now) {
  next_ = now + interval;
  const auto terminal = terminal_size(2);
  const std::chrono::duration<double> passed = now - began_;
  const std::size_t width = terminal ? terminal->columns - 1U : 79;
  const std::string line =
      progress_line(name_, done_, size_, static_cast<double>(total_) / passed.count(), width);
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace cube::cubectl
