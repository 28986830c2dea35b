// cubectl: the command line of a cubed daemon.
#include "cert.hpp"
#include "command_line.hpp"

int main(int argc, char** argv) {
  using namespace cube::cubectl;
  CommandLine line;
  CLI::App* sandbox = line.group("sandbox", "microVMs: create, use, pause, copy, kill")->alias("sbx");
  add_sandbox_commands(line, *sandbox);
  add_lifecycle_commands(line, *sandbox);
  add_copying_commands(line, *sandbox);
  add_exec_commands(line, *sandbox);
  add_copy_command(line, *sandbox);
  add_watch_commands(line, *sandbox);
  add_template_commands(line);
  add_snapshot_commands(line);
  add_status_command(line);
  add_certificate_commands(line);
  add_completion_commands(line);
  return run_command_line(line, argc, argv);
}
