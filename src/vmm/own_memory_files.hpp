// The files of a process' own memory in /proc.
#pragma once

#include <cube/core.hpp>

namespace cube::vmm {

struct OwnMemoryFiles {
  Fd memory, pagemap;

  /// Of the calling process; whoever has them reads its memory from anywhere.
  static Result<OwnMemoryFiles> open();
};

}  // namespace cube::vmm
