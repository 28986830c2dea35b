// Fd: the owner of one file descriptor. Move-only; closes on destruction.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "core/result.hpp"

namespace cube {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

  /// A second descriptor for the same open file, close-on-exec.
  Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

/// Repeats a system call for as long as a signal interrupts it: `retry_interrupted([&] { return ::fsync(fd);
/// })`.
template <class Call>
auto retry_interrupted(Call call) {
  auto outcome = call();
  while (outcome < 0 && errno == EINTR) outcome = call();
  return outcome;
}

/// open(2) with O_CLOEXEC added; the error names the path.
Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0600);

/// Whole-buffer I/O: restarts on EINTR and short transfers. A read that meets end of file early is `corrupt`.
Result<void> read_exactly(int fd, std::span<std::byte> buffer, std::uint64_t offset);
Result<void> write_exactly(int fd, std::span<const std::byte> buffer, std::uint64_t offset);

/// Whole file as a string; `invalid_argument` if it is larger than `limit` bytes.
Result<std::string> read_file(const std::string& path, std::size_t limit);

/// Replaces `path` so that a crash leaves the old content or the new, never a mix:
/// temporary name in the same directory, fsync, rename, fsync of the directory.
Result<void> write_file_atomically(const std::string& path, std::string_view content, unsigned mode = 0600);

}  // namespace cube
