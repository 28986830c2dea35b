// The kernel reports free memory in passes 2 s apart (PAGE_REPORTING_DELAY), each a sixteenth of a free list
// but at least 64 blocks, and marks what it has reported. A pass walks and dirties the descriptors of every
// page it reports. A snapshot taken in between leaves the remaining passes to each clone: in a fresh clone of
// 512 MiB one was, with what hung on it, about half of all page faults. The only trace the passes leave for
// user space are the interrupts of the balloon.
#include "settle.hpp"

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <charconv>
#include <chrono>
#include <cube/core.hpp>
#include <filesystem>
#include <string>

namespace cube::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds look_again{250};
constexpr std::chrono::milliseconds longest_pause{2500};  // between two passes
constexpr std::chrono::seconds longest{30};

/// "virtio4", or nothing without a balloon.
std::string balloon() {
  std::error_code error;
  std::filesystem::directory_iterator entry("/sys/bus/virtio/drivers/virtio_balloon", error), end;
  for (; !error && entry != end; entry.increment(error))
    if (std::string name = entry->path().filename().string(); name.starts_with("virtio")) return name;
  return {};
}

std::uint64_t interrupts_so_far(const std::string& device) {
  const auto table = read_file("/proc/interrupts", 1 << 20);
  return table ? interrupts_of(*table, device) : 0;
}

}  // namespace

std::uint64_t interrupts_of(std::string_view table, std::string_view device) {
  while (!table.empty()) {
    const std::string_view line = table.substr(0, table.find('\n'));
    table.remove_prefix(std::min(table.size(), line.size() + 1));
    if (!line.ends_with(device) || line.size() == device.size() ||
        line[line.size() - device.size() - 1] != ' ')
      continue;
    std::uint64_t sum = 0, count = 0;
    const char* next = line.data() + line.find(':') + 1;
    for (const char* last = line.data() + line.size();;) {
      while (next != last && *next == ' ') ++next;
      const auto [end, error] = std::from_chars(next, last, count);
      if (error != std::errc{} || end == last || *end != ' ') return sum;  // the interrupt controller's name
      sum += count;
      next = end;
    }
  }
  return 0;
}

asio::awaitable<void> settle(asio::any_io_executor loop) {
  const std::string device = balloon();
  if (device.empty()) co_return;
  asio::steady_timer pause(loop);
  const auto begun = Clock::now();
  auto changed = begun;
  std::uint64_t seen = interrupts_so_far(device);
  while (Clock::now() - changed < longest_pause && Clock::now() - begun < longest) {
    pause.expires_after(look_again);
    asio::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    const std::uint64_t now = interrupts_so_far(device);
    if (now != seen) changed = Clock::now();
    seen = now;
  }
}

}  // namespace cube::agent
