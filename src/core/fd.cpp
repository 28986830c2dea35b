#include "core/fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace cube {

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<Fd> Fd::duplicate() const {
  const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return os_error(errno, "cannot duplicate a file descriptor");
  return Fd(copy);
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) {
  Fd file(retry_interrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, mode); }));
  if (!file) return os_error(errno, "cannot open", path);
  return file;
}

Result<void> read_exactly(int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  while (!buffer.empty()) {
    const ssize_t count = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return os_error(errno, "cannot read");
    }
    if (count == 0) return make_error(ErrorCode::corrupt, "file ends before the data does");
    buffer = buffer.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> write_exactly(int fd, std::span<const std::byte> buffer, std::uint64_t offset) {
  while (!buffer.empty()) {
    const ssize_t count = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return os_error(errno, "cannot write");
    }
    buffer = buffer.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  auto file = open_file(path, O_RDONLY);
  if (!file) return std::move(file).error();
  std::string content;
  char chunk[4096];
  for (;;) {
    const ssize_t count = ::read(file->get(), chunk, sizeof chunk);
    if (count < 0) {
      if (errno == EINTR) continue;
      return os_error(errno, "cannot read", path);
    }
    if (count == 0) return content;
    if (content.size() + static_cast<std::size_t>(count) > limit)
      return make_error(ErrorCode::invalid_argument, "file is larger than allowed", path);
    content.append(chunk, static_cast<std::size_t>(count));
  }
}

namespace {

Result<void> sync_directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  auto handle = open_file(directory, O_RDONLY | O_DIRECTORY);
  if (!handle) return std::move(handle).error();
  if (retry_interrupted([&] { return ::fsync(handle->get()); }) != 0)
    return os_error(errno, "cannot sync directory", directory);
  return {};
}

Result<void> write_and_sync(const std::string& path, std::string_view content, unsigned mode) {
  auto file = open_file(path, O_WRONLY | O_CREAT | O_EXCL, mode);
  if (!file) return std::move(file).error();
  CUBE_TRY(write_exactly(file->get(), std::as_bytes(std::span(content.data(), content.size())), 0));
  if (retry_interrupted([&] { return ::fsync(file->get()); }) != 0)
    return os_error(errno, "cannot sync", path);
  return {};
}

}  // namespace

Result<void> write_file_atomically(const std::string& path, std::string_view content, unsigned mode) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  ::unlink(temporary.c_str());
  if (auto written = write_and_sync(temporary, content, mode); !written.ok()) {
    ::unlink(temporary.c_str());
    return std::move(written).error();
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int saved = errno;
    ::unlink(temporary.c_str());
    return os_error(saved, "cannot replace", path);
  }
  return sync_directory_of(path);
}

}  // namespace cube
