// Faults of the host in tests: the calls of libc that change files, one of which can be made to fail.
//
// A test that is linked with faulty_io.cpp calls these in place of libc's; they pass every call on until a
// FaultyIo is armed. A test of what survives a fault tries every place for it:
//
//   for (std::uint64_t n = 1, fired = true; fired; ++n) {
//     ...arrange
//     FaultyIo faulty(n, Fault::no_space);
//     const auto done = act();
//     fired = faulty.disarm();
//     ...if it fired, act failed and everything is as before; else act succeeded
//   }
//
// What counts: open and openat with O_CREAT, write, pwrite, writev, pwritev, copy_file_range, fallocate,
// ftruncate, fchmod, fsync, fdatasync, link, linkat, mkdir, mkdirat, rename, renameat, renameat2; of any
// thread, by whatever name (…64) libc knows them. What removes (unlink, close) does not: it is how tests and
// destructors clean up; only death comes there, too. Output (descriptors 0 to 2) does not count either.
// Syncing is left at that, because it takes most of the time and no test here sees a host lose its power.
#pragma once

#include <cstdint>

namespace cube::test {

enum class Fault {
  no_space,     ///< ENOSPC, and nothing done
  io_error,     ///< EIO, and nothing done
  interrupted,  ///< EINTR, and nothing done
  short_write,  ///< a part of the data is written; counts only calls that write more than one byte
  death,        ///< the process ends before the call, with `death_status`; for a child of the test
};
inline constexpr int death_status = 113;

/// One at a time.
class FaultyIo {
 public:
  /// The `nth` call from now, counted from 1, meets the fault; those before and behind it do not.
  FaultyIo(std::uint64_t nth, Fault fault);
  ~FaultyIo() { disarm(); }
  FaultyIo(const FaultyIo&) = delete;
  FaultyIo& operator=(const FaultyIo&) = delete;

  /// Calls pass again; whether the fault was met.
  bool disarm();

  /// The name of the call that met the fault, for messages; nullptr if none did.
  const char* where() const;
};

}  // namespace cube::test
