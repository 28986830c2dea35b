// The files of a snapshot: opening a directory of them, and naming them in a new one.
#pragma once

#include <cube/core.hpp>
#include <cube/disk.hpp>
#include <cube/snapshot.hpp>
#include <cube/vmm.hpp>
#include <memory>
#include <string>
#include <vector>

#include "snapshot/publication.hpp"

namespace cube::snapshot {

using FilePtr = std::shared_ptr<const disk::SharedFile>;
using Layers = std::vector<std::shared_ptr<const disk::Layer>>;

struct Files {
  Shape shape;
  vmm::MachineState state;  ///< empty without memory
  FilePtr memory;           ///< none: a snapshot of the disk alone
  std::uint32_t memory_crc32c = 0;
  Layers memory_layers;
  FilePtr disk;
  Layers disk_layers;
};

/// See snapshot::open.
Result<Files> open_files(const std::string& directory, const std::string& scratch_directory);

/// Reads every layer against its checksum, each once. `corrupt` with the name of its file.
Result<void> verify_layers(const Files& files);

/// Fills a directory under construction: everything in it is durable when it returns, but for its name.
Result<void> fill_directory(const PendingDirectory& directory, const Files& files);

}  // namespace cube::snapshot
