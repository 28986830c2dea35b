#include "disk/unnamed_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

namespace cube::disk {

Result<Fd> open_unlinked_file(const std::string& directory) {
  std::string name = directory + "/.scratch-XXXXXX";
  Fd file(::mkostemp(name.data(), O_CLOEXEC));
  if (!file) return os_error(errno, "cannot create a scratch file", directory);
  if (::unlink(name.c_str()) != 0) return os_error(errno, "cannot unlink a scratch file", name);
  return file;
}

Result<Fd> open_unnamed_file(const std::string& directory) {
  auto file = open_file(directory, O_TMPFILE | O_RDWR);
  // EISDIR is the answer of kernels and file systems that take O_TMPFILE for a plain open of a directory.
  if (!file && (file.error().os_errno == EOPNOTSUPP || file.error().os_errno == EISDIR))
    return open_unlinked_file(directory);
  return file;
}

Result<void> link_unnamed_file(int fd, const std::string& path) {
  const std::filesystem::path target(path);
  const std::string name = target.filename().string();
  auto directory =
      open_file(target.has_parent_path() ? target.parent_path().string() : ".", O_RDONLY | O_DIRECTORY);
  if (!directory) return std::move(directory).error();

  // Through /proc, because AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH (open(2), O_TMPFILE).
  const std::string source = "/proc/self/fd/" + std::to_string(fd);
  if (::linkat(AT_FDCWD, source.c_str(), directory->get(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    if (errno == ENOENT)
      return make_error(
          ErrorCode::unimplemented,
          "the kernel does not link this layer's file: the scratch directory's file system lacks "
          "O_TMPFILE (use ext4, xfs, btrfs or tmpfs) or an earlier attempt to keep the layer failed",
          path);
    return os_error(errno, "cannot name a disk layer", path);
  }
  if (::fsync(fd) == 0 && ::fsync(directory->get()) == 0) return {};
  const int reason = errno;
  ::unlinkat(directory->get(), name.c_str(), 0);
  return os_error(reason, "cannot make a disk layer's name durable", path);
}

}  // namespace cube::disk
