// The files of a process' own memory in /proc.
#pragma once

#include <cube/core.hpp>

namespace cube::vmm {

struct OwnMemoryFiles {
  Fd memory, pagemap, clear_refs;

  /// Of the calling process; whoever has them reads its memory, and has writes to it marked, from anywhere.
  static Result<OwnMemoryFiles> open();
};

}  // namespace cube::vmm
