// The daemon: builds every module once and hands each what it depends on.
#pragma once

#include <cube/core.hpp>

#include "daemon/config.hpp"

namespace cube::daemon {

/// Runs until SIGINT or SIGTERM. An error means that it could not start, and says why and what to do.
Result<void> run(const Config& config);

}  // namespace cube::daemon
