// The environment programs of users begin with.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "settings.hpp"

namespace cube::agent {

/// What every program sees: the sandbox's constants, overridden by /init's variables.
std::map<std::string, std::string> default_environment(const Settings& settings);

/// "NAME=value": the user's, then the defaults above, then the request's. `invalid_argument` for a name or
/// value that cannot be in an environment.
Result<std::vector<std::string>> environment_for(const Settings& settings, const User& user,
                                                 const std::map<std::string, std::string>& requested);

}  // namespace cube::agent
