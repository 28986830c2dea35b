// cubectl cert: certificates for a daemon that speaks TLS.
#pragma once

#include "command_line.hpp"

namespace cube::cubectl {

/// Adds the subcommand, which needs no daemon.
void add_certificate_commands(CommandLine& line);

}  // namespace cube::cubectl
