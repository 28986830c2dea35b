#include <cstdio>

#include "daemon/config.hpp"
#include "daemon/daemon.hpp"

int main(int argc, char** argv) {
  const auto parsed = cube::daemon::parse_command_line(argc, argv);
  if (!parsed.config) return parsed.exit_status;
  const auto result = cube::daemon::run(*parsed.config);
  if (result.ok()) return 0;
  std::fprintf(stderr, "cubed: %s\n", result.error().describe().c_str());
  return 1;
}
