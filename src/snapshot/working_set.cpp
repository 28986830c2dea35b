#include "snapshot/working_set.hpp"

#include <algorithm>
#include <array>

#include "snapshot/resident_pages.hpp"

namespace cube::snapshot {
namespace {

using vmm::PageRun;

/// A working set is a hint: one that is cut into too many runs costs more than it saves.
constexpr std::size_t most_runs = 4096;

/// What a guest does with more memory takes longer than having it mapped.
constexpr std::uint64_t most_bytes_to_be_used = 16u << 20;

/// No two clones come up alike: which processor does what is a matter of microseconds.
constexpr std::size_t enough_came_up = 3;

/// They tell what their use has in common.
constexpr std::size_t enough_used = 2;

/// One that needed so much less than coming up took was hardly used (its agent was asked how it is): it would
/// leave hardly anything in common.
constexpr std::uint64_t hardly_used = 8;

/// More than come up to tell: one that is not used tells nothing of its use.
constexpr std::size_t most_watched = 4;

/// How a page is in a list; the later includes the earlier.
enum Kind : std::uint8_t { absent, read, written };

/// A list where, for each page, `judge` says how it is in it, from how it is in each of the two.
template <class Judge>
Runs combine(std::span<const PageRun> one, std::span<const PageRun> other, Judge judge) {
  struct Edge {
    std::uint64_t offset;
    std::size_t list;
    Kind kind;  ///< from here on
  };
  std::vector<Edge> edges;
  const auto add = [&edges](std::span<const PageRun> runs, std::size_t list) {
    for (const PageRun& run : runs) {
      edges.push_back({run.offset, list, run.written ? written : read});
      edges.push_back({run.offset + run.bytes, list, absent});
    }
  };
  add(one, 0);
  add(other, 1);
  // Where a run follows another one's end, its begin counts.
  std::ranges::sort(edges, {}, [](const Edge& edge) { return std::pair(edge.offset, edge.kind != absent); });

  Runs all;
  std::array<Kind, 2> here{};
  std::uint64_t from = 0;
  for (const Edge& edge : edges) {
    const Kind kind = judge(here[0], here[1]);
    if (edge.offset > from && kind != absent) {
      if (!all.empty() && all.back().offset + all.back().bytes == from &&
          all.back().written == (kind == written))
        all.back().bytes = edge.offset - all.back().offset;
      else
        all.push_back({from, edge.offset - from, kind == written});
    }
    from = edge.offset;
    here[edge.list] = edge.kind;
  }
  return all;
}

void drop(Runs& runs, Kind kind) {
  std::erase_if(runs, [kind](const PageRun& run) { return run.written == (kind == written); });
}

/// Those that were only read save less.
Runs bounded(Runs runs) {
  if (runs.size() > most_runs) drop(runs, read);
  if (runs.size() > most_runs) runs.clear();
  return runs;
}

Runs first_bytes(Runs runs, std::uint64_t most) {
  for (auto run = runs.begin(); run != runs.end(); ++run) {
    if (run->bytes < most) {
      most -= run->bytes;
      continue;
    }
    run->bytes = most;
    runs.erase(run + (most > 0), runs.end());
    break;
  }
  return runs;
}

Runs runs_of(std::span<const vmm::MemoryImage::Run> layers) {
  Runs runs;
  for (const auto& layer : layers) runs.push_back({layer.memory_offset, layer.bytes, false});
  return runs;
}

std::string pages_of(const WorkingSet::Pages& runs) {
  return std::to_string(bytes_of(*runs) / vmm::page_size);
}

}  // namespace

Runs touched(std::span<const PageRun> present, std::span<const PageRun> copied) {
  return combine(present, copied, [](Kind found, Kind may_be_copied) {
    return found == written && may_be_copied != absent ? absent : found;
  });
}

Runs beyond(std::span<const PageRun> known, std::span<const PageRun> found) {
  return combine(known, found, [](Kind before, Kind now) { return now > before ? now : absent; });
}

Runs in_both(std::span<const PageRun> one, std::span<const PageRun> other) {
  return combine(one, other, [](Kind a, Kind b) { return std::min(a, b); });
}

Runs in_either(std::span<const PageRun> one, std::span<const PageRun> other) {
  return combine(one, other, [](Kind a, Kind b) { return std::max(a, b); });
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
    : copied_(runs_of(layers)) {
  if (parent == nullptr) return;
  told_ = parent->told();
  if (told_.used < enough_used) told_.used = 0;
  Runs read_only = *told_.to_be_used;
  drop(read_only, written);
  told_.to_be_used = std::make_shared<const Runs>(std::move(read_only));
}

WorkingSet::WorkingSet(const WorkingSet& earlier, LearnAnew) {
  told_ = earlier.told();
  told_.came_up = told_.used = 0;
}

WorkingSet::Told WorkingSet::told() const {
  const std::scoped_lock lock(mutex_);
  return told_;
}

WorkingSet::ForClone WorkingSet::begin_clone() {
  const std::scoped_lock lock(mutex_);
  ++clones_;
  ForClone clone{told_.to_come_up, told_.to_be_used, nullptr};
  // What was inherited is good enough for a snapshot that is cloned only once, as most that are paused.
  if (!(learns(Phase::came_up) || learns(Phase::used)) || (clones_ == 1 && !told_.to_come_up->empty()))
    return clone;
  std::erase_if(watched_, [](const std::weak_ptr<Witness>& one) { return one.expired(); });
  if (watched_.size() >= most_watched) return clone;
  clone.witness = std::make_shared<Watched>(shared_from_this());
  watched_.push_back(clone.witness);
  return clone;
}

/// With the mutex held.
bool WorkingSet::learns(Phase phase) const {
  return phase == Phase::came_up ? told_.came_up < enough_came_up
                                 : told_.came_up > 0 && told_.used < enough_used;
}

void WorkingSet::learn(const vmm::Machine& machine, Phase phase) {
  const auto memory = machine.memory();
  if (!memory) return;
  const auto present = resident_pages(**memory, WhichPages::present);
  if (!present || present->empty() || machine.stopped()) return;  // the memory of what has stopped is gone
  const std::scoped_lock lock(mutex_);
  if (!learns(phase)) return;
  const Runs found = touched(*present, copied_);
  if (phase == Phase::came_up) {
    ++told_.came_up;
    told_.to_come_up = std::make_shared<const Runs>(bounded(in_either(*told_.to_come_up, found)));
  } else {
    Runs needed = beyond(*told_.to_come_up, found);
    if (bytes_of(needed) * hardly_used < bytes_of(*told_.to_come_up)) return;
    if (++told_.used < enough_used)
      first_used_ = std::move(needed);
    else
      told_.to_be_used = std::make_shared<const Runs>(
          first_bytes(bounded(in_both(std::exchange(first_used_, {}), needed)), most_bytes_to_be_used));
  }
  log(LogLevel::debug, "snapshot", "a clone told what it needed",
      {{"to_come_up", pages_of(told_.to_come_up)}, {"to_be_used", pages_of(told_.to_be_used)}});
}

}  // namespace cube::snapshot
