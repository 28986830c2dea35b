#include "users.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace cube::agent {
namespace {

constexpr std::size_t file_limit = 1 << 20;

template <std::size_t count>
using Fields = std::array<std::string_view, count>;

/// The line's fields; those it lacks are empty.
template <std::size_t count>
Fields<count> split(std::string_view line) {
  Fields<count> fields;
  for (std::string_view& field : fields) {
    const auto colon = line.find(':');
    field = line.substr(0, colon);
    if (colon == std::string_view::npos) break;
    line.remove_prefix(colon + 1);
  }
  return fields;
}

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Calls `visit(line)` until it returns true.
template <class Visit>
void for_each_line(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const auto newline = text.find('\n');
    if (visit(text.substr(0, newline)) || newline == std::string_view::npos) return;
    text.remove_prefix(newline + 1);
  }
}

bool lists(std::string_view members, std::string_view name) {
  while (!members.empty()) {
    const auto comma = members.find(',');
    if (members.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) return false;
    members.remove_prefix(comma + 1);
  }
  return false;
}

std::string content_of(const char* path) {
  auto text = read_file(path, file_limit);
  return text ? std::move(*text) : std::string();
}

}  // namespace

std::optional<User> find_user_in(std::string_view passwd, std::string_view group, std::string_view name) {
  std::optional<User> user;
  for_each_line(passwd, [&](std::string_view line) {
    const auto fields = split<7>(line);
    const auto uid = number(fields[2]);
    const auto gid = number(fields[3]);
    if (fields[0] != name || name.empty() || !uid || !gid) return false;
    user = User{std::string(name), *uid, *gid, {*gid}, std::string(fields[5]), std::string(fields[6])};
    if (user->home.empty()) user->home = "/";
    if (user->shell.empty()) user->shell = "/bin/sh";
    return true;
  });
  if (!user) return user;
  for_each_line(group, [&](std::string_view line) {
    const auto fields = split<4>(line);
    const auto gid = number(fields[2]);
    if (gid && lists(fields[3], name) && std::ranges::find(user->groups, *gid) == user->groups.end())
      user->groups.push_back(*gid);
    return false;
  });
  return user;
}

std::optional<std::string> name_of_id(std::string_view text, unsigned id) {
  std::optional<std::string> name;
  for_each_line(text, [&](std::string_view line) {
    const auto fields = split<3>(line);
    if (number(fields[2]) != id || fields[0].empty()) return false;
    name = fields[0];
    return true;
  });
  return name;
}

Result<User> find_user(std::string_view name) {
  auto user = find_user_in(content_of("/etc/passwd"), content_of("/etc/group"), name);
  if (!user) return make_error(ErrorCode::unauthenticated, "invalid username: '" + std::string(name) + "'");
  return std::move(*user);
}

std::string user_name_of(uid_t uid) {
  return name_of_id(content_of("/etc/passwd"), uid).value_or(std::to_string(uid));
}

std::string group_name_of(gid_t gid) {
  return name_of_id(content_of("/etc/group"), gid).value_or(std::to_string(gid));
}

}  // namespace cube::agent
