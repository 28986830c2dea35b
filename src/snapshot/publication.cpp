#include "snapshot/publication.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>

namespace cube::snapshot {
namespace {

constexpr std::string_view pending_prefix = ".tmp-";
constexpr std::string_view deleted_prefix = ".del-";
constexpr std::size_t random_length = 16;

std::string temporary_name(std::string_view prefix) {
  return std::string(prefix) + random_lowercase(random_length);
}

bool is_temporary_name(std::string_view name) {
  if (!name.starts_with(pending_prefix) && !name.starts_with(deleted_prefix)) return false;
  const std::string_view random = name.substr(pending_prefix.size());
  return random.size() == random_length && is_lowercase(random);
}

// Symbolic links inside are removed, not followed.
Result<void> delete_tree(const std::string& path) {
  std::error_code failure;
  std::filesystem::remove_all(path, failure);
  if (failure) return os_error(failure.value(), "cannot delete", path);
  return {};
}

int sync(const Fd& directory) {
  return retry_interrupted([&] { return ::fsync(directory.get()); });
}

int rename_inside(const Fd& parent, const std::string& from, const std::string& to, unsigned flags = 0) {
  return retry_interrupted(
      [&] { return ::renameat2(parent.get(), from.c_str(), parent.get(), to.c_str(), flags); });
}

int rename_without_replacing(const Fd& parent, const std::string& from, const std::string& to) {
  if (rename_inside(parent, from, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // File systems without the flag: a plain rename replaces only an empty directory, which no snapshot is.
  if (rename_inside(parent, from, to) == 0) return 0;
  if (errno == ENOTEMPTY || errno == ENOTDIR) errno = EEXIST;
  return -1;
}

}  // namespace

Result<Location> locate(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const auto slash = path.rfind('/');
  Location location;
  location.name = slash == std::string::npos ? path : path.substr(slash + 1);
  location.parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  if (location.name.empty() || location.name == "." || location.name == "..")
    return make_error(ErrorCode::invalid_argument, "not the path of a snapshot", path);
  return location;
}

PendingDirectory::PendingDirectory(Location target, std::string temporary, Fd parent, Fd directory)
    : target_(std::move(target)),
      temporary_(std::move(temporary)),
      parent_(std::move(parent)),
      directory_(std::move(directory)) {}

Result<PendingDirectory> PendingDirectory::create(const std::string& target) { return make(target, true); }

Result<PendingDirectory> PendingDirectory::create_beside(const std::string& existing) {
  return make(existing, false);
}

Result<PendingDirectory> PendingDirectory::make(const std::string& target, bool must_be_new) {
  auto location = locate(target);
  if (!location) return std::move(location).error();
  auto parent = open_file(location->parent, O_RDONLY | O_DIRECTORY);
  if (!parent) return std::move(parent).error();
  if (must_be_new && ::faccessat(parent->get(), location->name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    return make_error(ErrorCode::already_exists, "something has this name already", target);

  const std::string temporary = temporary_name(pending_prefix);
  const std::string path = location->parent + "/" + temporary;
  if (retry_interrupted([&] { return ::mkdirat(parent->get(), temporary.c_str(), 0700); }) != 0)
    return os_error(errno, "cannot create a directory", path);
  auto directory = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!directory) {
    ::unlinkat(parent->get(), temporary.c_str(), AT_REMOVEDIR);
    return std::move(directory).error();
  }
  return PendingDirectory(std::move(location).value(), temporary, std::move(parent).value(),
                          std::move(directory).value());
}

PendingDirectory::~PendingDirectory() {
  if (!directory_) return;
  if (const auto deleted = delete_tree(target_.parent + "/" + temporary_); !deleted)
    log(LogLevel::warning, "snapshot", deleted.error().describe());
}

Result<void> PendingDirectory::publish() {
  if (sync(directory_) != 0) return os_error(errno, "cannot sync a snapshot's directory");
  const std::string path = target_.parent + "/" + target_.name;
  if (rename_without_replacing(parent_, temporary_, target_.name) != 0)
    return os_error(errno, "cannot name a snapshot", path);
  if (sync(parent_) != 0) {
    const int reason = errno;
    temporary_ = target_.name;  // the destructor removes it under its new name
    return os_error(reason, "cannot make a snapshot's name durable", path);
  }
  directory_.reset();
  return {};
}

// The exchange is one step for everybody who looks; what was there before is then the temporary one, and goes
// with this object.
Result<void> PendingDirectory::publish_over() {
  if (sync(directory_) != 0) return os_error(errno, "cannot sync a snapshot's directory");
  const std::string path = target_.parent + "/" + target_.name;
  if (rename_inside(parent_, temporary_, target_.name, RENAME_EXCHANGE) != 0)
    return os_error(errno, "cannot exchange a snapshot", path);
  if (sync(parent_) != 0) {
    const int reason = errno;
    // Back, so that what goes is the new one; if even that fails, the new one is as good.
    static_cast<void>(rename_inside(parent_, temporary_, target_.name, RENAME_EXCHANGE));
    return os_error(reason, "cannot make a snapshot's name durable", path);
  }
  return {};
}

Result<void> remove_directory(const std::string& path) {
  const auto location = locate(path);
  if (!location) return location.error();
  const auto parent = open_file(location->parent, O_RDONLY | O_DIRECTORY);
  if (!parent) return parent.error();

  struct stat status {};
  if (::fstatat(parent->get(), location->name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
    return os_error(errno, "cannot remove a snapshot", path);
  if (!S_ISDIR(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "not a snapshot: it is no directory", path);

  const std::string aside = temporary_name(deleted_prefix);
  if (rename_inside(*parent, location->name, aside) != 0)
    return os_error(errno, "cannot remove a snapshot", path);
  // Otherwise a crash could bring the name back with half of its files.
  if (sync(*parent) != 0) return os_error(errno, "cannot sync", location->parent);
  return delete_tree(location->parent + "/" + aside);
}

Result<void> remove_temporary_directories(const std::string& parent) {
  std::error_code failure;
  std::filesystem::directory_iterator entries(parent, failure);
  Result<void> outcome;
  for (; !failure && entries != std::filesystem::directory_iterator(); entries.increment(failure)) {
    std::error_code ignored;  // the entry vanished: nothing to remove
    const bool is_directory = std::filesystem::is_directory(entries->symlink_status(ignored));
    if (!is_directory || !is_temporary_name(entries->path().filename().string())) continue;
    auto deleted = delete_tree(entries->path().string());
    if (!deleted && outcome) outcome = std::move(deleted);
  }
  if (failure) return os_error(failure.value(), "cannot list", parent);
  return outcome;
}

}  // namespace cube::snapshot
