#include "daemon/state_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

namespace cube::daemon {
namespace {

constexpr std::string_view format_version = "1";

Result<void> make_directory(const std::string& path, unsigned mode) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return os_error(errno, "cannot create the directory", path);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return os_error(errno, "cannot inspect", path);
  if (!S_ISDIR(status.st_mode)) return make_error(ErrorCode::invalid_argument, "not a directory", path);
  return {};
}

std::string without_newline(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  return text;
}

/// The content of a small file that is made with `fresh` if it is missing.
Result<std::string> read_or_create(const std::string& path, const std::string& fresh) {
  auto text = read_file(path, 4096);
  if (text.ok()) return without_newline(std::move(*text));
  if (text.error().code != ErrorCode::not_found) return std::move(text).error();
  CUBE_TRY(write_file_atomically(path, fresh + "\n"));
  return fresh;
}

bool is_node_tag(std::string_view text) { return text.size() == node_tag_length && is_lowercase(text); }

}  // namespace

Result<StateDirectory> StateDirectory::open(const std::string& path) {
  StateDirectory state;
  state.path_ = path;
  CUBE_TRY(make_directory(path, 0700));
  auto lock = open_file(path + "/lock", O_RDWR | O_CREAT, 0600);
  if (!lock) return std::move(lock).error();
  if (::flock(lock->get(), LOCK_EX | LOCK_NB) != 0)
    return make_error(ErrorCode::already_exists,
                      "another cubed uses this state directory: stop it or use --state-dir", path);
  state.lock_ = std::move(*lock);

  const auto version = read_or_create(path + "/version", std::string(format_version));
  if (!version) return version.error();
  if (*version != format_version)
    return make_error(ErrorCode::conflict,
                      "written by another version of cubed (format " + *version + ", this one has " +
                          std::string(format_version) + "): use another --state-dir",
                      path);
  const auto tag = read_or_create(path + "/node", random_lowercase(node_tag_length));
  if (!tag) return tag.error();
  if (!is_node_tag(*tag))
    return make_error(ErrorCode::corrupt, "not a node tag of 4 characters of [a-z0-9]", path + "/node");
  state.node_tag_ = *tag;
  for (const char* name : {"/templates", "/paused", "/checkpoints", "/scratch", "/images"})
    CUBE_TRY(make_directory(path + name, 0700));
  return state;
}

Result<ApiKey> load_api_key(const std::string& path) {
  auto text = read_file(path, 4096);
  if (text.ok()) {
    std::string key = without_newline(std::move(*text));
    if (key.empty()) return make_error(ErrorCode::invalid_argument, "the API key file is empty", path);
    return ApiKey{std::move(key), false};
  }
  if (text.error().code != ErrorCode::not_found) return std::move(text).error();
  const std::string key = "e2b_" + random_hex(20);
  CUBE_TRY(write_file_atomically(path, key + "\n"));
  return ApiKey{key, true};
}

}  // namespace cube::daemon
