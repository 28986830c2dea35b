// From fork to exec: what happens in the new process before the program runs.
#pragma once

#include <sys/types.h>

#include <cube/core.hpp>
#include <optional>

#include "children.hpp"

namespace cube::agent {

/// Why the child could not become the program.
struct ExecFailure {
  enum class Step : int { terminal, stdio, credentials, directory, program };
  Step step{};
  int os_errno = 0;
};

struct Started {
  pid_t pid = -1;
  std::optional<ExecFailure> failure;  ///< the child has ended, and is to be reaped all the same
};

/// Returns once the program's image runs. `cgroup`: directory descriptor of the control group the child
/// begins in, or -1.
Result<Started> start_program(const Program& program, const Stdio& stdio, int cgroup);

Error explain(const ExecFailure& failure, const Program& program);

}  // namespace cube::agent
