// The states of a sandbox and the only ways between them; the code and its tests share this table.
#pragma once

#include <array>
#include <cube/node.hpp>

namespace cube::node {

struct Transition {
  SandboxState from, to;
};

inline constexpr std::array transitions = {
    Transition{SandboxState::creating, SandboxState::running},
    Transition{SandboxState::creating, SandboxState::dead},  // the clone did not come up
    Transition{SandboxState::running, SandboxState::pausing},
    Transition{SandboxState::pausing, SandboxState::paused},
    Transition{SandboxState::pausing, SandboxState::running},  // pausing failed: it runs on
    Transition{SandboxState::paused, SandboxState::resuming},
    Transition{SandboxState::resuming, SandboxState::running},
    Transition{SandboxState::resuming, SandboxState::paused},  // resuming failed: it is still on disk
    Transition{SandboxState::running, SandboxState::killing},
    Transition{SandboxState::pausing, SandboxState::killing},
    Transition{SandboxState::resuming, SandboxState::killing},
    Transition{SandboxState::paused, SandboxState::killing},
    Transition{SandboxState::killing, SandboxState::dead},
};

constexpr bool may_become(SandboxState from, SandboxState to) {
  for (const Transition& transition : transitions)
    if (transition.from == from && transition.to == to) return true;
  return false;
}

}  // namespace cube::node
