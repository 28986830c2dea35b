// The small runs of an image's layers gathered in one file, for the many clones of one snapshot.
//
// What a guest has written lies in a thousand pieces, most of them a page or two. A clone copies those, which
// takes longer than all the rest of its restore, and the copies are memory of its own. Gathered, pieces that
// lie close are one, together with what is between them: a clone maps a few, copies hardly any, and shares
// with the others what it does not write.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "snapshot/memory_image.hpp"

namespace cube::snapshot {

/// Runs of so many bytes stay where they are.
constexpr std::uint64_t large_run_bytes = 256u << 10;

/// The smaller ones of `runs` (ascending), each made larger until restores map it, and the closest neighbours
/// joined until `most` are left, or the next would make it more than `most_bytes` in all, or only large runs
/// are between them.
std::vector<vmm::PageRun> join_closest(std::span<const vmm::MemoryImage::Run> runs, std::size_t most,
                                       std::uint64_t most_bytes);

class GatheredRuns {
 public:
  /// For so many clones, as far as is known: the more, the more may be copied. Costs copying the small runs
  /// and what lies between. Nothing if they are few, or too far from each other.
  static Result<std::optional<GatheredRuns>> make(const MemoryView& memory,
                                                  const std::string& scratch_directory, std::size_t clones);

  /// As good as `memory`'s, whose files they are in, too.
  std::span<const vmm::MemoryImage::Run> runs() const { return runs_; }

 private:
  GatheredRuns(FilePtr file, std::vector<vmm::MemoryImage::Run> runs)
      : file_(std::move(file)), runs_(std::move(runs)) {}

  FilePtr file_;
  std::vector<vmm::MemoryImage::Run> runs_;
};

}  // namespace cube::snapshot
