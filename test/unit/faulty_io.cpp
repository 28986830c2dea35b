// Each call has its own symbol here, whatever the compiler makes of its name elsewhere.
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include "faulty_io.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace cube::test {
namespace {

std::atomic<std::int64_t> calls_left = 0;  // 1: the next call meets the fault; 0 and below: none does
std::atomic<Fault> fault = Fault::io_error;
std::atomic<const char*> met_by = nullptr;

bool meets_fault(const char* name) {
  if (calls_left.load() <= 0 || --calls_left != 0) return false;
  met_by = name;
  return true;
}

bool fails(const char* name) {
  if (fault == Fault::short_write || !meets_fault(name)) return false;
  if (fault == Fault::death) ::_exit(death_status);
  errno = fault == Fault::no_space ? ENOSPC : fault == Fault::interrupted ? EINTR : EIO;
  return true;
}

/// How much of `length` bytes a call writes.
std::size_t length_to_write(const char* name, std::size_t length) {
  return fault == Fault::short_write && length > 1 && meets_fault(name) ? length / 2 : length;
}

template <class Return, class... Arguments>
Return call_libc(const char* name, Arguments... arguments) {
  void* const symbol = ::dlsym(RTLD_NEXT, name);
  if (!symbol) std::abort();
  return reinterpret_cast<Return (*)(Arguments...)>(symbol)(arguments...);
}

template <class Return, class... Arguments>
Return call(const char* name, Arguments... arguments) {
  if (fails(name)) return -1;
  return call_libc<Return>(name, arguments...);
}

/// What removes files fails by death only.
template <class... Arguments>
int remove_call(const char* name, Arguments... arguments) {
  return fault == Fault::death ? call<int>(name, arguments...) : call_libc<int>(name, arguments...);
}

template <class... Rest>
ssize_t write_call(const char* name, int fd, const void* data, std::size_t length, Rest... rest) {
  if (fd <= 2) return call_libc<ssize_t>(name, fd, data, length, rest...);
  if (fails(name)) return -1;
  return call_libc<ssize_t>(name, fd, data, length_to_write(name, length), rest...);
}

template <class... Rest>
ssize_t write_vector_call(const char* name, int fd, const iovec* buffers, int count, Rest... rest) {
  if (fd <= 2) return call_libc<ssize_t>(name, fd, buffers, count, rest...);
  if (fails(name)) return -1;
  std::size_t length = 0;
  for (int i = 0; i < count; ++i) length += buffers[i].iov_len;
  if (length_to_write(name, length) == length) return call_libc<ssize_t>(name, fd, buffers, count, rest...);
  // A part: half of the first buffer that has anything.
  const iovec* first = buffers;
  while (first->iov_len == 0) ++first;
  const iovec part{first->iov_base, (first->iov_len + 1) / 2};
  return call_libc<ssize_t>(name, fd, &part, 1, rest...);
}

template <class... Before>
int open_call(const char* name, int flags, mode_t mode, Before... before) {
  if ((flags & O_CREAT) != 0 && fails(name)) return -1;
  return call_libc<int>(name, before..., flags, mode);
}

}  // namespace

FaultyIo::FaultyIo(std::uint64_t nth, Fault what) {
  met_by = nullptr;
  fault = what;
  calls_left = static_cast<std::int64_t>(nth);
}

bool FaultyIo::disarm() {
  calls_left = 0;
  return met_by != nullptr;
}

const char* FaultyIo::where() const { return met_by; }

}  // namespace cube::test

using namespace cube::test;

// Without O_CREAT or O_TMPFILE there is no mode, and what is read in its place is not used.
#define CUBE_MODE_AFTER(flags)                               \
  mode_t mode = 0;                                           \
  va_list rest;                                              \
  va_start(rest, flags);                                     \
  if (__OPEN_NEEDS_MODE(flags)) mode = va_arg(rest, mode_t); \
  va_end(rest)

extern "C" {

int open(const char* path, int flags, ...) {
  CUBE_MODE_AFTER(flags);
  return open_call("open", flags, mode, path);
}
int open64(const char* path, int flags, ...) {
  CUBE_MODE_AFTER(flags);
  return open_call("open64", flags, mode, path);
}
int openat(int directory, const char* path, int flags, ...) {
  CUBE_MODE_AFTER(flags);
  return open_call("openat", flags, mode, directory, path);
}
int openat64(int directory, const char* path, int flags, ...) {
  CUBE_MODE_AFTER(flags);
  return open_call("openat64", flags, mode, directory, path);
}

ssize_t write(int fd, const void* data, size_t length) { return write_call("write", fd, data, length); }
ssize_t pwrite(int fd, const void* data, size_t length, off_t at) {
  return write_call("pwrite", fd, data, length, at);
}
ssize_t pwrite64(int fd, const void* data, size_t length, off64_t at) {
  return write_call("pwrite64", fd, data, length, at);
}
ssize_t writev(int fd, const iovec* buffers, int count) {
  return write_vector_call("writev", fd, buffers, count);
}
ssize_t pwritev(int fd, const iovec* buffers, int count, off_t at) {
  return write_vector_call("pwritev", fd, buffers, count, at);
}
ssize_t pwritev64(int fd, const iovec* buffers, int count, off64_t at) {
  return write_vector_call("pwritev64", fd, buffers, count, at);
}
ssize_t copy_file_range(int from, off64_t* from_at, int to, off64_t* to_at, size_t length, unsigned flags) {
  if (fails("copy_file_range")) return -1;
  return call_libc<ssize_t>("copy_file_range", from, from_at, to, to_at,
                            length_to_write("copy_file_range", length), flags);
}

int fallocate(int fd, int mode, off_t at, off_t length) {
  return call<int>("fallocate", fd, mode, at, length);
}
int fallocate64(int fd, int mode, off64_t at, off64_t length) {
  return call<int>("fallocate64", fd, mode, at, length);
}
int ftruncate(int fd, off_t length) noexcept { return call<int>("ftruncate", fd, length); }
int ftruncate64(int fd, off64_t length) noexcept { return call<int>("ftruncate64", fd, length); }
int fchmod(int fd, mode_t mode) noexcept { return call<int>("fchmod", fd, mode); }
int fsync(int) { return fails("fsync") ? -1 : 0; }
int fdatasync(int) { return fails("fdatasync") ? -1 : 0; }

int link(const char* from, const char* to) noexcept { return call<int>("link", from, to); }
int linkat(int from_directory, const char* from, int to_directory, const char* to, int flags) noexcept {
  return call<int>("linkat", from_directory, from, to_directory, to, flags);
}
int mkdir(const char* path, mode_t mode) noexcept { return call<int>("mkdir", path, mode); }
int mkdirat(int directory, const char* path, mode_t mode) noexcept {
  return call<int>("mkdirat", directory, path, mode);
}
int rename(const char* from, const char* to) noexcept { return call<int>("rename", from, to); }
int renameat(int from_directory, const char* from, int to_directory, const char* to) noexcept {
  return call<int>("renameat", from_directory, from, to_directory, to);
}
int renameat2(int from_directory, const char* from, int to_directory, const char* to,
              unsigned flags) noexcept {
  return call<int>("renameat2", from_directory, from, to_directory, to, flags);
}

int unlink(const char* path) noexcept { return remove_call("unlink", path); }
int unlinkat(int directory, const char* path, int flags) noexcept {
  return remove_call("unlinkat", directory, path, flags);
}
int rmdir(const char* path) noexcept { return remove_call("rmdir", path); }

}  // extern "C"
