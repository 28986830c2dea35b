// Settings: what /init told the agent; and the users of the guest.
#pragma once

#include <sys/types.h>

#include <cube/core.hpp>
#include <cube/guest.hpp>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cube::agent {

struct Settings {
  std::string sandbox_id;
  std::string template_id;
  std::string access_token;
  std::string default_user = "user";
  std::string default_workdir;
  std::map<std::string, std::string> env_vars;
};

struct User {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  ///< supplementary ones
  std::string home;
  std::string shell;
};

/// From /etc/passwd and /etc/group, read anew each time (no NSS: the agent is static). Unknown:
/// `unauthenticated` "invalid username: 'x'".
Result<User> find_user(std::string_view name);
std::string user_name_of(uid_t uid);  ///< the number as text if it has no name
std::string group_name_of(gid_t gid);

/// The user a request acts as: `name`, or the default one if it is empty.
Result<User> acting_user(const Settings& settings, std::string_view name);

/// "~" and "~/x" are the user's home, relative paths begin at the default workdir or the home; the result is
/// absolute and lexically normal. Empty text is the starting directory itself.
std::string resolve_path(const Settings& settings, const User& user, std::string_view path);

}  // namespace cube::agent
