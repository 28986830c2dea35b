// The files of a snapshot, without a machine: writing them and opening them.
#pragma once

#include <cstddef>
#include <cube/core.hpp>
#include <cube/snapshot.hpp>
#include <cube/vmm.hpp>
#include <span>
#include <string>

namespace cube::snapshot {

struct Files {
  Shape shape;
  vmm::MachineState state;
  Fd memory;
  Fd disk;
};

/// See snapshot::open.
Result<Files> open_files(const std::string& directory);

/// See snapshot::write.
Result<void> write_files(const std::string& directory, const Shape& shape, const vmm::MachineState& state,
                         std::span<const std::span<const std::byte>> memory, const std::string& disk_path);

}  // namespace cube::snapshot
