#include "node/warm_pool.hpp"

#include <algorithm>

namespace cube::node {

WarmPool::Shelf* WarmPool::find(const CloneSource& source) {
  const auto found =
      std::ranges::find(shelves_, source.snapshot, [](const Shelf& s) { return s.source.snapshot; });
  return found != shelves_.end() ? &*found : nullptr;
}

SandboxPtr WarmPool::take(const CloneSource& source) {
  Shelf* shelf = find(source);
  while (shelf != nullptr && !shelf->waiting.empty()) {
    shelf->used = true;
    const SandboxPtr sandbox = std::move(shelf->waiting.back().sandbox);
    shelf->waiting.pop_back();
    if (sandbox->running.machine->stopped()) continue;  // it died while it waited
    ++counts_.hits;
    return sandbox;
  }
  ++counts_.misses;
  return nullptr;
}

void WarmPool::want_more(const CloneSource& source) {
  if (limit_ == 0) return;
  Shelf* shelf = find(source);
  if (shelf == nullptr) shelf = &shelves_.emplace_back(Shelf{source, {}, 0, false});
  shelf->used = true;
  shelf->wanted = std::min(limit_, shelf->wanted + 1);
}

std::optional<CloneSource> WarmPool::next_wanted() const {
  const Shelf* neediest = nullptr;
  for (const Shelf& shelf : shelves_)
    if (shelf.waiting.size() < shelf.wanted &&
        (neediest == nullptr || shelf.waiting.size() < neediest->waiting.size()))
      neediest = &shelf;
  if (neediest == nullptr) return std::nullopt;
  return neediest->source;
}

void WarmPool::put(const CloneSource& source, SandboxPtr sandbox, std::uint64_t memory_bytes) {
  Shelf* shelf = find(source);
  if (shelf == nullptr) return;
  shelf->used = true;
  shelf->waiting.push_back({std::move(sandbox), memory_bytes});
}

std::uint64_t WarmPool::memory_bytes() const {
  std::uint64_t sum = 0;
  for (const Shelf& shelf : shelves_)
    for (const Waiting& waiting : shelf.waiting) sum += waiting.memory_bytes;
  return sum;
}

std::size_t WarmPool::size() const {
  std::size_t sum = 0;
  for (const Shelf& shelf : shelves_) sum += shelf.waiting.size();
  return sum;
}

std::size_t WarmPool::wanted() const {
  std::size_t sum = 0;
  for (const Shelf& shelf : shelves_) sum += shelf.wanted;
  return sum;
}

std::vector<SandboxPtr> WarmPool::take_outdated(const std::function<bool(const CloneSource&)>& current) {
  std::vector<SandboxPtr> out;
  std::erase_if(shelves_, [&](Shelf& shelf) {
    if (current(shelf.source)) return false;
    empty(shelf, 0, out);
    return true;
  });
  return out;
}

std::vector<SandboxPtr> WarmPool::age() {
  std::vector<SandboxPtr> out;
  std::erase_if(shelves_, [&](Shelf& shelf) {
    if (!std::exchange(shelf.used, false) && shelf.wanted > 0) --shelf.wanted;
    empty(shelf, shelf.wanted, out);
    return shelf.wanted == 0;
  });
  return out;
}

std::vector<SandboxPtr> WarmPool::drain() {
  std::vector<SandboxPtr> out;
  for (Shelf& shelf : shelves_) empty(shelf, 0, out);
  shelves_.clear();
  return out;
}

void WarmPool::empty(Shelf& shelf, std::size_t down_to, std::vector<SandboxPtr>& out) {
  while (shelf.waiting.size() > down_to) {
    out.push_back(std::move(shelf.waiting.back().sandbox));
    shelf.waiting.pop_back();
  }
}

}  // namespace cube::node
