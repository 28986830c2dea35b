// Who may call: everybody who has the daemon's one key.
#pragma once

#include <optional>

#include "api/router.hpp"

namespace cube::api {

/// Nothing if the request may pass, else the 401.
std::optional<Answer> check_access(const Settings& settings, Access access, const http::Headers& headers);

}  // namespace cube::api
