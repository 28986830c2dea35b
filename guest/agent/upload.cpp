#include "upload.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "entry.hpp"
#include "tree.hpp"

namespace cube::agent {

namespace {

// Whoever watches the directory sees a file up to this size written at once: one CREATE, one CHMOD, one
// WRITE.
constexpr std::size_t burst_size = 1 << 20;

}  // namespace

Result<void> Upload::write(std::string_view bytes) {
  if (!file_ && buffer_.size() + bytes.size() <= burst_size) {
    buffer_ += bytes;
    return {};
  }
  if (!file_) {
    CUBE_TRY(open());
    CUBE_TRY(write_now(buffer_));
    buffer_ = {};
  }
  return write_now(bytes);
}

Result<void> Upload::finish() {
  if (!file_) {
    CUBE_TRY(open());
    CUBE_TRY(write_now(buffer_));
  }
  file_.reset();
  return {};
}

// An existing file keeps its inode and mode, so hard links and open descriptors see the new content.
Result<void> Upload::open() {
  CUBE_TRY(ensure_directories(parent_of(path_), user_.uid, user_.gid));
  struct stat status {};
  const bool exists = ::stat(path_.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "path '" + path_ + "' is a directory");
  if (exists && !S_ISREG(status.st_mode))  // a pipe or a device could block, or do something
    return make_error(ErrorCode::invalid_argument, "path '" + path_ + "' is not a regular file");
  Fd file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644));
  if (!file) return os_error(errno, "open", path_);
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "path '" + path_ + "' is not a regular file");
  if (::fchown(file.get(), user_.uid, user_.gid) != 0) return os_error(errno, "chown", path_);
  if (status.st_size > 0 && ::ftruncate(file.get(), 0) != 0) return os_error(errno, "truncate", path_);
  file_ = std::move(file);
  return set_metadata();
}

/// Replaces what an earlier upload set.
Result<void> Upload::set_metadata() {
  for (const auto& [name, value] : read_metadata(path_)) {
    if (metadata_.contains(name)) continue;
    const std::string attribute = std::string(metadata_prefix) + name;
    if (::fremovexattr(file_.get(), attribute.c_str()) != 0 && errno != ENODATA)
      return os_error(errno, "remove metadata '" + name + "'", path_);
  }
  for (const auto& [name, value] : metadata_) {
    const std::string attribute = std::string(metadata_prefix) + name;
    if (::fsetxattr(file_.get(), attribute.c_str(), value.data(), value.size(), 0) != 0)
      return os_error(errno, "set metadata '" + name + "'", path_);
  }
  return {};
}

Result<void> Upload::write_now(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_error(errno, "write", path_);
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

}  // namespace cube::agent
