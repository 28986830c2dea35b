#include "disk/allocation_bitmap.hpp"

#include <bit>

namespace cube::disk {

bool AllocationBitmap::contains(std::uint64_t cluster) const {
  const std::uint64_t index = cluster / clusters_per_chunk;
  if (index >= chunks_.size() || !chunks_[index]) return false;
  const std::uint64_t bit = cluster % clusters_per_chunk;
  return ((*chunks_[index])[bit / 64] >> (bit % 64) & 1) != 0;
}

void AllocationBitmap::insert(std::uint64_t first, std::uint64_t last) {
  for (std::uint64_t cluster = first; cluster <= last; ++cluster) {
    const std::uint64_t bit = cluster % clusters_per_chunk;
    std::uint64_t& word = make_chunk(cluster / clusters_per_chunk)[bit / 64];
    const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
    if ((word & mask) == 0) ++count_;
    word |= mask;
  }
}

void AllocationBitmap::insert_chunk(std::uint64_t index, const Chunk& bits) {
  Chunk& chunk = make_chunk(index);
  for (std::size_t word = 0; word < chunk.size(); ++word) {
    count_ += static_cast<std::uint64_t>(std::popcount(bits[word] & ~chunk[word]));
    chunk[word] |= bits[word];
  }
}

std::uint64_t AllocationBitmap::end() const {
  for (std::uint64_t index = chunks_.size(); index-- > 0;) {
    if (!chunks_[index]) continue;
    const Chunk& chunk = *chunks_[index];
    for (std::uint64_t word = chunk.size(); word-- > 0;)
      if (chunk[word] != 0)
        return index * clusters_per_chunk + word * 64 +
               static_cast<std::uint64_t>(std::bit_width(chunk[word]));
  }
  return 0;
}

AllocationBitmap::Chunk& AllocationBitmap::make_chunk(std::uint64_t index) {
  if (index >= chunks_.size()) chunks_.resize(index + 1);
  if (!chunks_[index]) chunks_[index] = std::make_unique<Chunk>();
  return *chunks_[index];
}

}  // namespace cube::disk
