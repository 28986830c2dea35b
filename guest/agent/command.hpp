// A command run to its end with its output collected: the daemon's POST /run.
#pragma once

#include <chrono>
#include <string>

#include "children.hpp"

namespace cube::agent {

struct CommandResult {
  int status = 0;      ///< as wait(2) has it
  std::string output;  ///< the last 64 KiB of standard output and error
  bool timed_out = false;
};

/// The command has ended when its process has, whatever it left behind in the background.
asio::awaitable<Result<CommandResult>> run_command(asio::any_io_executor loop, Children& children,
                                                   Program program, std::chrono::milliseconds timeout);

}  // namespace cube::agent
