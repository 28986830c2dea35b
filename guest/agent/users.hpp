// The formats of passwd(5) and group(5).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "settings.hpp"

namespace cube::agent {

/// Nothing if no well-formed line has the name. `groups` of the result holds `gid` too, as initgroups(3)
/// does.
std::optional<User> find_user_in(std::string_view passwd, std::string_view group, std::string_view name);

/// The first name with that number in either format.
std::optional<std::string> name_of_id(std::string_view text, unsigned id);

}  // namespace cube::agent
