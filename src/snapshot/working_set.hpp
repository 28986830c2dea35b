// Which pages the clones of a snapshot need, as the first ones tell.
#pragma once

#include <cstdint>
#include <cube/snapshot.hpp>
#include <cube/vmm.hpp>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace cube::snapshot {

/// Pages of a machine's memory, ascending and disjoint.
using Runs = std::vector<vmm::PageRun>;

/// What of the pages found `present` in a clone it has touched. Pages of `copied`, which a restore may have
/// copied, that are its own were not necessarily written by it.
Runs touched(std::span<const vmm::PageRun> present, std::span<const vmm::PageRun> copied);

/// What of `found` is not `known` as read or, where it was written, as written.
Runs beyond(std::span<const vmm::PageRun> known, std::span<const vmm::PageRun> found);

/// What is in both; written if it is in both.
Runs in_both(std::span<const vmm::PageRun> one, std::span<const vmm::PageRun> other);

/// What is in either; written if it is in either.
Runs in_either(std::span<const vmm::PageRun> one, std::span<const vmm::PageRun> other);

/// What the next clone has made present: before it runs what the first ones needed to come up, and when it is
/// used what two had in common that were. Guests that go on from the same memory take the same free pages
/// first, so that also these can be the clone's own before it asks for them. Few clones are watched at a
/// time, because a watched one pays for every page. Safe from any thread.
class WorkingSet : public std::enable_shared_from_this<WorkingSet> {
 public:
  using Pages = std::shared_ptr<const Runs>;  ///< never null

  /// Knows what `parent`, if there is one, has been told, but not which pages were free there and taken by
  /// use; `layers` are what a restore may copy.
  WorkingSet(const WorkingSet* parent, std::span<const vmm::MemoryImage::Run> layers);

  /// Knows what `earlier` knows, and is to be told anew, by clones that a restore copies nothing for.
  struct LearnAnew {};
  WorkingSet(const WorkingSet& earlier, LearnAnew);

  struct ForClone {
    Pages to_come_up;
    Pages to_be_used;                  ///< what is needed besides
    std::shared_ptr<Witness> witness;  ///< or none: this one is not watched
  };
  ForClone begin_clone();

 private:
  class Watched;
  using Phase = Witness::Phase;

  /// What clones have told.
  struct Told {
    Pages to_come_up = std::make_shared<const Runs>();
    Pages to_be_used = to_come_up;
    std::size_t came_up = 0;  ///< how many have told what they needed to come up
    std::size_t used = 0;     ///< how many have told what their use needed
  };

  Told told() const;
  bool learns(Phase phase) const;
  void learn(const vmm::Machine& machine, Phase phase);

  const Runs copied_;
  mutable std::mutex mutex_;
  Told told_;
  Runs first_used_;  ///< what the first of two needed
  std::size_t clones_ = 0;
  std::vector<std::weak_ptr<Witness>> watched_;
};

}  // namespace cube::snapshot
