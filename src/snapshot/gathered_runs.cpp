#include "snapshot/gathered_runs.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace cube::snapshot {
namespace {

using Run = vmm::MemoryImage::Run;
using vmm::PageRun;

/// So many small ones are left as they are.
constexpr std::size_t few_runs = 128;

/// As many pieces as a clone should map.
constexpr std::size_t few_pieces = 48;

/// As many as it is to map at worst.
constexpr std::size_t most_pieces = 384;

/// What may be copied, with what lies between, is three times what the small runs hold, or for each clone as
/// much as costs what mapping 50 pieces does, but within these bounds.
constexpr std::uint64_t copied_for_clone = 640u << 10;
constexpr std::uint64_t least_for_clones = 32u << 20;
constexpr std::uint64_t most_for_clones = 64u << 20;

constexpr std::size_t chunk_bytes = 1u << 20;

bool is_large(const Run& run) { return run.bytes >= large_run_bytes; }

struct Block {
  std::uint64_t begin, end;
  std::size_t large_before;  ///< runs
};

/// What the small runs touch, in units that restores map, except where a large run begins or ends in one.
std::vector<Block> blocks_of(std::span<const Run> runs) {
  constexpr std::uint64_t unit = vmm::MemoryImage::least_mapped_bytes;
  std::vector<Block> blocks;
  std::size_t large = 0;
  std::uint64_t end_of_large = 0;
  for (const Run& run : runs) {
    if (is_large(run)) {
      if (!blocks.empty()) blocks.back().end = std::min(blocks.back().end, run.memory_offset);
      ++large;
      end_of_large = run.memory_offset + run.bytes;
      continue;
    }
    const std::uint64_t begin = std::max(run.memory_offset / unit * unit, end_of_large);
    const std::uint64_t end = (run.memory_offset + run.bytes + unit - 1) / unit * unit;
    if (!blocks.empty() && blocks.back().large_before == large && blocks.back().end >= begin)
      blocks.back().end = end;
    else
      blocks.push_back({begin, end, large});
  }
  return blocks;
}

/// How far the next block is: never over a large run.
std::uint64_t gap(const Block& block, const Block& next) {
  if (block.large_before != next.large_before) return std::numeric_limits<std::uint64_t>::max();
  return next.begin - block.end;
}

Result<void> append(int fd, std::uint64_t at, const MemoryView& memory, const PageRun& piece,
                    std::span<std::byte> chunk) {
  for (std::uint64_t done = 0; done < piece.bytes; done += chunk.size()) {
    const auto bytes = chunk.first(std::min<std::uint64_t>(chunk.size(), piece.bytes - done));
    CUBE_TRY(memory.read(piece.offset + done, bytes));
    CUBE_TRY(write_exactly(fd, bytes, at + done));
  }
  return {};
}

}  // namespace

std::vector<PageRun> join_closest(std::span<const Run> runs, std::size_t most, std::uint64_t most_bytes) {
  const std::vector<Block> blocks = blocks_of(runs);
  if (blocks.empty()) return {};
  std::uint64_t bytes = 0;
  for (const Block& block : blocks) bytes += block.end - block.begin;
  // The joint i is between the blocks i and i + 1.
  std::vector<std::size_t> joints(blocks.size() - 1);
  std::iota(joints.begin(), joints.end(), 0);
  const auto width = [&](std::size_t joint) { return gap(blocks[joint], blocks[joint + 1]); };
  std::ranges::stable_sort(joints, {}, width);
  std::vector<bool> joined(blocks.size());
  std::size_t left = blocks.size();
  for (const std::size_t joint : joints) {
    if (left <= most || bytes > most_bytes || width(joint) > most_bytes - bytes) break;
    joined[joint] = true;
    bytes += width(joint);
    --left;
  }

  std::vector<PageRun> pieces;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (i == 0 || !joined[i - 1]) pieces.push_back({blocks[i].begin, 0, false});
    pieces.back().bytes = blocks[i].end - pieces.back().offset;
  }
  return pieces;
}

Result<std::optional<GatheredRuns>> GatheredRuns::make(const MemoryView& memory,
                                                       const std::string& scratch_directory,
                                                       std::size_t clones) {
  std::vector<Run> runs;
  std::uint64_t held = 0;
  for (const Run& run : memory.runs()) {
    if (is_large(run))
      runs.push_back(run);
    else
      held += run.bytes;
  }
  if (memory.runs().size() - runs.size() <= few_runs) return std::optional<GatheredRuns>();
  const auto for_clones = std::clamp(clones * copied_for_clone, least_for_clones, most_for_clones);
  const auto pieces = join_closest(memory.runs(), few_pieces, std::max(3 * held, for_clones));
  if (pieces.size() > most_pieces) return std::optional<GatheredRuns>();

  auto file = disk::SharedFile::create(scratch_directory);
  if (!file) return std::move(file).error();
  const int fd = (*file)->fd();
  std::vector<std::byte> chunk(chunk_bytes);
  std::uint64_t at = 0;
  for (const PageRun& piece : pieces) {
    CUBE_TRY(append(fd, at, memory, piece, chunk));
    runs.push_back({piece.offset, piece.bytes, fd, at});
    at += piece.bytes;
  }
  std::ranges::sort(runs, {}, &Run::memory_offset);
  log(LogLevel::debug, "snapshot", "small runs are gathered",
      {{"runs", std::to_string(memory.runs().size())},
       {"now", std::to_string(runs.size())},
       {"copied_kib", std::to_string(at >> 10)}});
  return std::optional(GatheredRuns(std::move(*file), std::move(runs)));
}

}  // namespace cube::snapshot
