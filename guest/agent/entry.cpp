#include "entry.hpp"

#include <sys/xattr.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cube/core.hpp>
#include <memory>
#include <vector>

#include "settings.hpp"

namespace cube::agent {

namespace {

// The kernel's own limits of a list and of a value (XATTR_LIST_MAX, XATTR_SIZE_MAX) are 64 KiB.
constexpr std::size_t attribute_limit = 64 << 10;

std::string_view file_type(mode_t mode) {
  if (S_ISREG(mode)) return "FILE_TYPE_FILE";
  if (S_ISDIR(mode)) return "FILE_TYPE_DIRECTORY";
  if (S_ISLNK(mode)) return "FILE_TYPE_SYMLINK";
  return "FILE_TYPE_UNSPECIFIED";
}

std::string base_name(const std::string& path) {
  return path == "/" ? path : path.substr(path.find_last_of('/') + 1);
}

/// The path itself if the link leads nowhere.
std::string link_target(const std::string& path) {
  const std::unique_ptr<char, decltype(&::free)> resolved(::realpath(path.c_str(), nullptr), ::free);
  return resolved ? std::string(resolved.get()) : path;
}

}  // namespace

std::string permission_string(mode_t mode) {
  std::string text;
  if (S_ISDIR(mode)) text += 'd';
  if (S_ISLNK(mode)) text += 'L';
  if (S_ISBLK(mode) || S_ISCHR(mode)) text += 'D';
  if (S_ISFIFO(mode)) text += 'p';
  if (S_ISSOCK(mode)) text += 'S';
  if (mode & S_ISUID) text += 'u';
  if (mode & S_ISGID) text += 'g';
  if (S_ISCHR(mode)) text += 'c';
  if (mode & S_ISVTX) text += 't';
  if (text.empty()) text += '-';
  constexpr std::string_view letters = "rwxrwxrwx";
  for (std::size_t i = 0; i < letters.size(); ++i) text += mode & (0400u >> i) ? letters[i] : '-';
  return text;
}

std::map<std::string, std::string> read_metadata(const std::string& path) {
  std::map<std::string, std::string> metadata;
  if (::llistxattr(path.c_str(), nullptr, 0) <= 0) return metadata;
  std::vector<char> buffer(attribute_limit);
  const ssize_t length = ::llistxattr(path.c_str(), buffer.data(), buffer.size());
  if (length <= 0) return metadata;
  const std::string names(buffer.data(), static_cast<std::size_t>(length));
  for (std::size_t at = 0; at < names.size(); at += std::string_view(names.data() + at).size() + 1) {
    const std::string_view name(names.data() + at);  // each ends with a zero byte
    if (!name.starts_with(metadata_prefix)) continue;
    const ssize_t size = ::lgetxattr(path.c_str(), name.data(), buffer.data(), buffer.size());
    if (size >= 0)
      metadata.emplace(name.substr(metadata_prefix.size()),
                       std::string(buffer.data(), static_cast<std::size_t>(size)));
  }
  return metadata;
}

Result<void> EntryWriter::append(JsonWriter& json, const std::string& path) {
  struct stat own {};
  if (::lstat(path.c_str(), &own) != 0) {
    if (errno == ENOENT || errno == ENOTDIR)
      return make_error(ErrorCode::not_found, "path '" + path + "' does not exist");
    return os_error(errno, "lstat", path);
  }
  const bool is_link = S_ISLNK(own.st_mode);
  std::string target;
  mode_t followed = own.st_mode;
  if (is_link) {
    target = link_target(path);
    struct stat other {};
    followed = ::stat(path.c_str(), &other) == 0 ? other.st_mode : 0;
  }
  const auto user = users_.try_emplace(own.st_uid).first;
  if (user->second.empty()) user->second = user_name_of(own.st_uid);
  const auto group = groups_.try_emplace(own.st_gid).first;
  if (group->second.empty()) group->second = group_name_of(own.st_gid);

  json.begin_object();
  json.key("name").value(base_name(path));
  json.key("type").value(file_type(followed));
  json.key("path").value(path);
  json.key("size").value(std::to_string(own.st_size));  // int64 is a string in proto3 JSON
  json.key("mode").value(followed & 0777u);
  json.key("permissions").value(permission_string(own.st_mode));
  json.key("owner").value(user->second);
  json.key("group").value(group->second);
  json.key("modifiedTime").value(rfc3339(own.st_mtim));
  if (is_link) json.key("symlinkTarget").value(target);
  if (const auto metadata = read_metadata(path); !metadata.empty()) {
    json.key("metadata").begin_object();
    for (const auto& [name, value] : metadata) json.key(name).value(value);
    json.end_object();
  }
  json.key("isSymlink").value(is_link);
  json.end_object();
  return {};
}

}  // namespace cube::agent
