// A process in a sandbox joined to this one's terminal, pipes and signals.
#pragma once

#include "command_line.hpp"
#include "process_stream.hpp"

namespace cube::cubectl {

/// Runs a command with standard input (if the request has it), output and error joined to ours. Its exit
/// status, or 128 and the number of the signal that ended us.
asio::awaitable<Outcome> run_attached(Session& session, Sandbox sandbox, ProcessRequest request);

/// The same in a pseudo-terminal that is ours in raw mode, of its size. The sandbox is kept alive meanwhile.
asio::awaitable<Outcome> run_in_terminal(Session& session, Sandbox sandbox, ProcessRequest request);

}  // namespace cube::cubectl
