// Which clusters a layer holds. Bits live in chunks that exist only where something was written, so an
// untouched disk costs nothing, however large.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace cube::disk {

class AllocationBitmap {
 public:
  using Chunk = std::array<std::uint64_t, 512>;
  static constexpr std::uint64_t clusters_per_chunk = sizeof(Chunk) * 8;  // 128 MiB of disk

  bool contains(std::uint64_t cluster) const;
  void insert(std::uint64_t first, std::uint64_t count);
  void insert_chunk(std::uint64_t index, const Chunk& bits);

  std::uint64_t count() const { return count_; }
  std::uint64_t end() const;  ///< one past the highest cluster held; 0 if there is none

  /// Calls `run(first cluster, count)` for each run of neighbouring clusters held, ascending.
  using RunFunction = std::function<void(std::uint64_t, std::uint64_t)>;
  void for_each_run(const RunFunction& run) const;

  /// Chunk `index` of `chunk_slots()`, or nullptr if nothing in it is held.
  std::uint64_t chunk_slots() const { return chunks_.size(); }
  const Chunk* chunk(std::uint64_t index) const { return chunks_[index].get(); }

 private:
  Chunk& make_chunk(std::uint64_t index);

  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::uint64_t count_ = 0;
};

}  // namespace cube::disk
