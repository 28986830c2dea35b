#include "settings.hpp"

#include <filesystem>

namespace cube::agent {

Result<User> acting_user(const Settings& settings, std::string_view name) {
  return find_user(name.empty() ? std::string_view(settings.default_user) : name);
}

std::string resolve_path(const Settings& settings, const User& user, std::string_view path) {
  namespace fs = std::filesystem;
  fs::path resolved;
  if (path == "~" || path.starts_with("~/")) {
    resolved = fs::path(user.home) / path.substr(std::min<std::size_t>(2, path.size()));
  } else {
    const std::string& workdir = settings.default_workdir;
    const bool in_home = workdir == "~" || workdir.starts_with("~/");
    fs::path start = user.home;
    if (in_home)
      start /= workdir.substr(std::min<std::size_t>(2, workdir.size()));
    else
      start /= workdir;
    resolved = start / path;
  }
  std::string text = (fs::path("/") / resolved).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

}  // namespace cube::agent
