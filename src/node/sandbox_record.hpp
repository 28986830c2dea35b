// What the store keeps of a sandbox beyond its columns, as JSON: enough to find a paused one again.
#pragma once

#include "node/sandbox.hpp"
#include "node/store.hpp"

namespace cube::node {

SandboxRow to_row(const Sandbox& sandbox);

/// Fills in everything but what runs and the snapshot. `corrupt` if the record is not one.
Result<void> from_row(const SandboxRow& row, Sandbox& sandbox);

}  // namespace cube::node
