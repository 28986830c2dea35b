#include "vmm/memory_guard.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cube/vmm.hpp>
#include <mutex>
#include <utility>

namespace cube::vmm {

/// An entry of the handler's list. It is never freed, so that the handler can walk the list at any time, but
/// used again.
struct MemoryGuard::Range {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;  ///< 0 while unused
  std::atomic<bool> damaged = false;
  Range* next = nullptr;
  Range* next_unused = nullptr;  ///< with the mutex
};

namespace {

using Range = MemoryGuard::Range;

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free &&
              std::atomic<Range*>::is_always_lock_free);

// A signal's handler belongs to the process, and so does what it reads.
std::atomic<Range*> all_ranges = nullptr;
Range* unused_ranges = nullptr;
std::mutex ranges_mutex;
struct sigaction previous_action;

/// The guarded range around an address. Only the thread that touched it asks, so a range that contains the
/// address stays what it is; of the others `end` is read twice, lest one be seen half old and half new.
Range* find_range(std::uintptr_t address) {
  for (Range* range = all_ranges; range != nullptr; range = range->next) {
    const std::uintptr_t end = range->end;
    if (range->begin <= address && address < end && range->end == end) return range;
  }
  return nullptr;
}

/// To the end of the range, not a page at a time: the kernel limits how many mappings a process has. By the
/// system call itself, since a sanitizer's mmap is not to be called from a signal handler.
bool replace_with_zeros(Range& range, std::uintptr_t address) {
  const std::uintptr_t page = address & ~(page_size - 1);
  const long mapped = ::syscall(SYS_mmap, page, range.end - page, PROT_READ | PROT_WRITE,
                                MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped != static_cast<long>(page)) return false;
  range.damaged = true;
  return true;
}

// Async-signal-safe.
void on_bus_error(int, siginfo_t* info, void*) {
  const int saved_errno = errno;
  const bool by_access = info->si_code > 0;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  Range* range = by_access ? find_range(address) : nullptr;
  if (range == nullptr || !replace_with_zeros(*range, address)) {
    // The access is repeated after the handler and meets the earlier disposition; a sent signal is not.
    ::sigaction(SIGBUS, &previous_action, nullptr);
    if (!by_access) ::raise(SIGBUS);
  }
  errno = saved_errno;
}

void install_handler() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return ::sigaction(SIGBUS, &action, &previous_action) == 0;
  }();
  static_cast<void>(installed);
}

Range* take_range() {
  const std::scoped_lock lock(ranges_mutex);
  if (unused_ranges != nullptr) return std::exchange(unused_ranges, unused_ranges->next_unused);
  auto* range = new Range;
  range->next = all_ranges;
  all_ranges = range;
  return range;
}

void give_back(Range* range) {
  range->end = 0;
  const std::scoped_lock lock(ranges_mutex);
  range->next_unused = std::exchange(unused_ranges, range);
}

}  // namespace

MemoryGuard::MemoryGuard(std::span<std::byte> mapping) : range_(take_range()) {
  install_handler();
  range_->damaged = false;
  range_->begin = reinterpret_cast<std::uintptr_t>(mapping.data());
  range_->end = reinterpret_cast<std::uintptr_t>(mapping.data()) + mapping.size();
}

MemoryGuard::MemoryGuard(MemoryGuard&& other) noexcept : range_(std::exchange(other.range_, nullptr)) {}

MemoryGuard& MemoryGuard::operator=(MemoryGuard&& other) noexcept {
  std::swap(range_, other.range_);
  return *this;
}

MemoryGuard::~MemoryGuard() {
  if (range_ != nullptr) give_back(range_);
}

bool MemoryGuard::damaged() const { return range_ != nullptr && range_->damaged; }

}  // namespace cube::vmm
