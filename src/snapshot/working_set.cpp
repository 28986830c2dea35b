#include "snapshot/working_set.hpp"

#include <algorithm>
#include <array>

#include "snapshot/resident_pages.hpp"

namespace cube::snapshot {
namespace {

using vmm::PageRun;

/// A working set is a hint: one that is cut into too many runs costs more than it saves.
constexpr std::size_t most_runs = 4096;

/// No two clones come up alike: which processor does what is a matter of microseconds.
constexpr std::size_t enough_came_up = 3;

/// More than come up to tell: one that is not used tells nothing of its use.
constexpr std::size_t most_watched = 4;

}  // namespace

std::vector<PageRun> add_resident(std::span<const PageRun> known, std::span<const PageRun> resident,
                                  std::span<const vmm::MemoryImage::Run> copied, Witness::Phase phase) {
  enum Kind : std::size_t { known_read, known_written, found_read, found_written, in_copied, kinds };
  struct Edge {
    std::uint64_t offset;
    Kind kind;
    int step;
  };
  std::vector<Edge> edges;
  const auto add = [&](std::uint64_t offset, std::uint64_t bytes, Kind kind) {
    edges.push_back({offset, kind, 1});
    edges.push_back({offset + bytes, kind, -1});
  };
  for (const PageRun& run : known) add(run.offset, run.bytes, run.written ? known_written : known_read);
  for (const PageRun& run : resident) add(run.offset, run.bytes, run.written ? found_written : found_read);
  for (const auto& run : copied) add(run.memory_offset, run.bytes, in_copied);
  std::ranges::sort(edges, {}, &Edge::offset);

  std::vector<PageRun> all;
  std::array<int, kinds> inside{};
  std::uint64_t from = 0;
  for (const Edge& edge : edges) {
    const bool found_own =
        phase == Witness::Phase::came_up && inside[found_written] > 0 && inside[in_copied] == 0;
    const bool present =
        inside[known_read] + inside[known_written] > 0 || inside[found_read] > 0 || found_own;
    const bool written = inside[known_written] > 0 || found_own;
    if (edge.offset > from && present) {
      if (!all.empty() && all.back().offset + all.back().bytes == from && all.back().written == written)
        all.back().bytes = edge.offset - all.back().offset;
      else
        all.push_back({from, edge.offset - from, written});
    }
    from = edge.offset;
    inside[edge.kind] += edge.step;
  }
  return all;
}

class WorkingSet::Watched final : public Witness {
 public:
  explicit Watched(std::shared_ptr<WorkingSet> set) : set_(std::move(set)) {}
  bool wanted(Phase phase) const override {
    const std::scoped_lock lock(set_->mutex_);
    return set_->learns(phase);
  }
  void learn(const vmm::Machine& machine, Phase phase) override {
    if (wanted(phase)) set_->learn(machine, phase);
  }

 private:
  const std::shared_ptr<WorkingSet> set_;
};

WorkingSet::WorkingSet(const WorkingSet* parent, std::span<const vmm::MemoryImage::Run> layers)
    : layers_(layers.begin(), layers.end()) {
  if (parent != nullptr) told_ = parent->told();
}

WorkingSet::WorkingSet(const WorkingSet& earlier, LearnAnew) { told_.pages = earlier.told().pages; }

WorkingSet::Told WorkingSet::told() const {
  const std::scoped_lock lock(mutex_);
  return told_;
}

WorkingSet::ForClone WorkingSet::begin_clone() {
  const std::scoped_lock lock(mutex_);
  ++clones_;
  ForClone clone{told_.pages, nullptr};
  // What was inherited is good enough for a snapshot that is cloned only once, as most that are paused.
  if (!(learns(Phase::came_up) || learns(Phase::used)) || (told_.pages && clones_ == 1)) return clone;
  std::erase_if(watched_, [](const std::weak_ptr<Witness>& one) { return one.expired(); });
  if (watched_.size() >= most_watched) return clone;
  clone.witness = std::make_shared<Watched>(shared_from_this());
  watched_.push_back(clone.witness);
  return clone;
}

/// With the mutex held.
bool WorkingSet::learns(Phase phase) const {
  return phase == Phase::came_up ? told_.came_up < enough_came_up : told_.came_up > 0 && !told_.used;
}

void WorkingSet::learn(const vmm::Machine& machine, Phase phase) {
  const auto memory = machine.memory();
  if (!memory) return;
  const auto resident = resident_pages(**memory, WhichPages::present);
  if (!resident || resident->empty() || machine.stopped()) return;  // the memory of what has stopped is gone
  const std::scoped_lock lock(mutex_);
  if (!learns(phase)) return;
  if (phase == Phase::used)
    told_.used = true;
  else
    ++told_.came_up;
  const std::span<const PageRun> known = told_.pages ? *told_.pages : std::span<const PageRun>();
  std::vector<PageRun> all = add_resident(known, *resident, layers_, phase);
  if (all.size() > most_runs) std::erase_if(all, [](const PageRun& run) { return !run.written; });
  if (all.size() > most_runs) all.clear();
  log(LogLevel::debug, "snapshot", "a clone told what it needed",
      {{"phase", phase == Phase::used ? "used" : "came up"},
       {"pages", std::to_string(bytes_of(all) / vmm::page_size)},
       {"runs", std::to_string(all.size())}});
  told_.pages = std::make_shared<const std::vector<PageRun>>(std::move(all));
}

}  // namespace cube::snapshot
