// POST /init as E2B's envd has it, for programs inside that speak to one. Sandboxes do not depend on it: the
// daemon has its own (init.hpp), on a port that guests cannot reach, and the proxy leads nobody here.
#pragma once

#include <ctime>
#include <optional>

#include "rpc.hpp"
#include "settings.hpp"

namespace cube::agent {

class EnvdInit {
 public:
  /// Changes `settings` as the message says, or not at all: `unauthenticated` unless "accessToken" is the
  /// token there is already, `unimplemented` for what this envd does not do. A message whose "timestamp" is
  /// not later than the last one's is stale and changes nothing. The clock is the daemon's business.
  Result<void> apply(const JsonObject& message, Settings& settings);

 private:
  std::optional<timespec> latest_;
};

}  // namespace cube::agent
