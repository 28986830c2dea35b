// From fork to exec: what happens in the new process before the program runs.
#pragma once

#include <sys/types.h>

#include <cube/core.hpp>

#include "children.hpp"

namespace cube::agent {

/// What the child writes to its report pipe when it cannot become the program.
struct ExecFailure {
  enum class Step : int { terminal, stdio, credentials, directory, program };
  Step step{};
  int os_errno = 0;
};

struct Started {
  pid_t pid = -1;
  Fd report;  ///< end of file once the program runs, else one ExecFailure
};

/// `cgroup`: directory descriptor of the control group the child begins in, or -1.
Result<Started> start_program(const Program& program, const Stdio& stdio, int cgroup);

Error explain(const ExecFailure& failure, const Program& program);

}  // namespace cube::agent
