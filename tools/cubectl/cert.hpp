// cubectl cert: certificates for a daemon that speaks TLS.
#pragma once

namespace CLI {
class App;
}

namespace cube::cubectl {

/// Adds the subcommand. It needs no daemon and ends the program itself when it fails.
void add_certificate_commands(CLI::App& app);

}  // namespace cube::cubectl
