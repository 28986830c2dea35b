#include "disk/allocation_bitmap.hpp"

#include <algorithm>
#include <bit>

namespace cube::disk {

bool AllocationBitmap::contains(std::uint64_t cluster) const {
  const std::uint64_t index = cluster / clusters_per_chunk;
  if (index >= chunks_.size() || !chunks_[index]) return false;
  const std::uint64_t bit = cluster % clusters_per_chunk;
  return ((*chunks_[index])[bit / 64] >> (bit % 64) & 1) != 0;
}

void AllocationBitmap::insert(std::uint64_t first, std::uint64_t count) {
  const std::uint64_t end = first + count;
  for (std::uint64_t cluster = first; cluster < end;) {
    const std::uint64_t bit = cluster % 64;
    const std::uint64_t length = std::min(64 - bit, end - cluster);
    const std::uint64_t mask = ~std::uint64_t{0} >> (64 - length) << bit;
    std::uint64_t& word = make_chunk(cluster / clusters_per_chunk)[cluster % clusters_per_chunk / 64];
    count_ += static_cast<std::uint64_t>(std::popcount(mask & ~word));
    word |= mask;
    cluster += length;
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

void AllocationBitmap::for_each_run(const RunFunction& run) const {
  std::uint64_t first = 0, count = 0;  // the run so far, which may go on in the next word or chunk
  for (std::uint64_t index = 0; index < chunks_.size(); ++index) {
    if (!chunks_[index]) continue;
    for (std::uint64_t word = 0; word < chunks_[index]->size(); ++word) {
      std::uint64_t bits = (*chunks_[index])[word];
      while (bits != 0) {
        const auto start = static_cast<unsigned>(std::countr_zero(bits));
        const auto length = static_cast<unsigned>(std::countr_one(bits >> start));
        bits &= ~(~std::uint64_t{0} >> (64 - length) << start);
        const std::uint64_t cluster = index * clusters_per_chunk + word * 64 + start;
        if (cluster != first + count) {
          if (count > 0) run(first, count);
          first = cluster;
          count = 0;
        }
        count += length;
      }
    }
  }
  if (count > 0) run(first, count);
}

AllocationBitmap::Chunk& AllocationBitmap::make_chunk(std::uint64_t index) {
  if (index >= chunks_.size()) chunks_.resize(index + 1);
  if (!chunks_[index]) chunks_[index] = std::make_unique<Chunk>();
  return *chunks_[index];
}

}  // namespace cube::disk
