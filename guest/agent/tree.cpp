#include "tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace cube::agent {

namespace {

constexpr int open_directory_flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
constexpr std::size_t removals_per_step = 512;

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, DirectoryCloser>;

/// The next name other than "." and "..", null at the end.
const char* next_name(DIR* directory) {
  while (const dirent* entry = ::readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") return entry->d_name;
  }
  return nullptr;
}

bool is_missing(int error) { return error == ENOENT || error == ENOTDIR; }

}  // namespace

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

Result<void> ensure_directories(const std::string& path, uid_t uid, gid_t gid) {
  for (std::size_t end = 0; end != path.size();) {
    end = std::min(path.find('/', end + 1), path.size());
    const std::string directory = path.substr(0, end);
    if (::mkdir(directory.c_str(), 0755) == 0) {
      if (::lchown(directory.c_str(), uid, gid) != 0) return os_error(errno, "chown", directory);
      continue;
    }
    const int error = errno;
    struct stat status {};
    if (error == EEXIST && ::stat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) continue;
    if (error == EEXIST)
      return make_error(ErrorCode::invalid_argument, "path '" + directory + "' is not a directory");
    return os_error(error, "mkdir", directory);
  }
  return {};
}

Result<DirectoryWalk> DirectoryWalk::open(const std::string& root, std::uint32_t depth, std::size_t limit) {
  DirectoryWalk walk;
  // With a slash at its end a link to a directory is followed; below, none is.
  walk.root_ = root.ends_with('/') ? root : root + '/';
  walk.depth_ = depth;
  walk.limit_ = limit;
  CUBE_TRY(walk.enter(""));
  return walk;
}

Result<void> DirectoryWalk::enter(const std::string& directory) {
  const std::string path = root_ + directory;
  // The relative path of a sub-directory comes without the slash, so a link there is refused by O_NOFOLLOW.
  Fd fd(::open(path.c_str(), open_directory_flags));
  if (!fd) return os_error(errno, "open", path);
  const Directory stream(::fdopendir(fd.get()));
  if (!stream) return os_error(errno, "fdopendir", path);
  fd.release();

  Level level;
  level.directory = directory.empty() ? "" : directory + '/';
  while (const char* name = next_name(stream.get())) {
    if (held_ == limit_)
      return make_error(ErrorCode::resource_exhausted,
                        "'" + root_ + "' holds more than " + std::to_string(limit_) + " entries");
    ++held_;
    level.names.emplace_back(name);
  }
  std::ranges::sort(level.names);
  levels_.push_back(std::move(level));
  return {};
}

Result<std::optional<std::string>> DirectoryWalk::next() {
  if (const std::string entry = std::exchange(pending_, {}); !entry.empty()) {
    const Result<void> entered = enter(entry);  // fails for what is not a directory
    if (!entered.ok() && entered.error().code == ErrorCode::resource_exhausted && !entered.error().os_errno)
      return entered.error();
  }
  while (!levels_.empty() && levels_.back().position == levels_.back().names.size()) {
    held_ -= levels_.back().names.size();
    levels_.pop_back();
  }
  if (levels_.empty()) return std::optional<std::string>();
  Level& level = levels_.back();
  std::string entry = level.directory + level.names[level.position++];
  if (levels_.size() < depth_) pending_ = entry;
  return std::optional<std::string>(std::move(entry));
}

Result<TreeRemover> TreeRemover::open(const std::string& path) {
  TreeRemover remover;
  if (path == "/") return make_error(ErrorCode::invalid_argument, "the root directory cannot be removed");
  remover.path_ = path;
  remover.name_ = path.substr(path.find_last_of('/') + 1);
  const std::string parent = parent_of(path);
  Fd fd(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd && !is_missing(errno)) return os_error(errno, "open", parent);
  remover.parent_ = std::move(fd);
  return remover;
}

Result<bool> TreeRemover::step() {
  if (!parent_) return true;
  if (levels_.empty()) return remove_root();

  Fd copy(::openat(directory_.get(), ".", open_directory_flags));
  if (!copy) return os_error(errno, "open", path_);
  const Directory stream(::fdopendir(copy.get()));
  if (!stream) return os_error(errno, "fdopendir", path_);
  copy.release();
  for (std::size_t count = 0; count < removals_per_step; ++count) {
    const char* name = next_name(stream.get());
    if (!name) {
      CUBE_TRY(ascend());
      return false;
    }
    if (::unlinkat(directory_.get(), name, 0) == 0 || errno == ENOENT) continue;
    if (errno != EISDIR) return os_error(errno, "remove", path_);
    if (::unlinkat(directory_.get(), name, AT_REMOVEDIR) == 0 || errno == ENOENT) continue;
    if (errno != ENOTEMPTY && errno != EEXIST) return os_error(errno, "remove", path_);
    CUBE_TRY(descend(name));
    return false;
  }
  return false;
}

Result<bool> TreeRemover::remove_root() {
  if (::unlinkat(parent_.get(), name_.c_str(), 0) == 0 || is_missing(errno)) return true;
  if (errno != EISDIR) return os_error(errno, "remove", path_);
  if (::unlinkat(parent_.get(), name_.c_str(), AT_REMOVEDIR) == 0 || is_missing(errno)) return true;
  if (errno != ENOTEMPTY && errno != EEXIST) return os_error(errno, "remove", path_);
  CUBE_TRY(descend(name_));
  return false;
}

Result<void> TreeRemover::descend(std::string name) {
  const int from = levels_.empty() ? parent_.get() : directory_.get();
  Fd fd(::openat(from, name.c_str(), open_directory_flags));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0) return os_error(errno, "open", path_);
  directory_ = std::move(fd);
  levels_.push_back(Level{std::move(name), status.st_dev, status.st_ino});
  return {};
}

Result<void> TreeRemover::ascend() {
  const Level empty = std::move(levels_.back());
  levels_.pop_back();
  int parent = parent_.get();
  Fd up;
  if (!levels_.empty()) {
    up = Fd(::openat(directory_.get(), "..", open_directory_flags));
    struct stat status {};
    if (!up || ::fstat(up.get(), &status) != 0) return os_error(errno, "open", path_);
    // Somebody may have moved the directory while we were in it; its new surroundings are not ours to remove.
    if (status.st_dev != levels_.back().device || status.st_ino != levels_.back().inode)
      return make_error(ErrorCode::conflict, "'" + path_ + "' was moved while it was being removed");
    parent = up.get();
  }
  if (::unlinkat(parent, empty.name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT && errno != ENOTEMPTY &&
      errno != EEXIST)
    return os_error(errno, "remove", path_);
  directory_ = std::move(up);
  return {};
}

}  // namespace cube::agent
