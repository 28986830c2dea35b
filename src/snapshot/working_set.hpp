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

/// `known` and what was found resident besides. Written pages inside `copied` may be there only because a
/// restore puts them there: they count as found no more than `known` says. What only use has written is
/// left out: a clone that is never used should cost no memory for it, and mapped without its own memory it
/// would leave the guest all the same when it writes. All ascending.
std::vector<vmm::PageRun> add_resident(std::span<const vmm::PageRun> known,
                                       std::span<const vmm::PageRun> resident,
                                       std::span<const vmm::MemoryImage::Run> copied, Witness::Phase phase);

/// What the next clone has made present before it runs. Few clones are watched at a time, because a watched
/// one pays for every page. Safe from any thread.
class WorkingSet : public std::enable_shared_from_this<WorkingSet> {
 public:
  using Pages = std::shared_ptr<const std::vector<vmm::PageRun>>;

  /// Knows what `parent`, if there is one, has been told; `layers` are what a restore may copy.
  WorkingSet(const WorkingSet* parent, std::span<const vmm::MemoryImage::Run> layers);

  /// Knows what `earlier` knows, and is to be told anew, by clones that a restore copies nothing for.
  struct LearnAnew {};
  WorkingSet(const WorkingSet& earlier, LearnAnew);

  struct ForClone {
    Pages pages;                       ///< or none
    std::shared_ptr<Witness> witness;  ///< or none: this one is not watched
  };
  ForClone begin_clone();

 private:
  class Watched;
  using Phase = Witness::Phase;

  /// What clones have told.
  struct Told {
    Pages pages;
    std::size_t came_up = 0;  ///< how many have told what they needed to come up
    bool used = false;        ///< one has told what its use needs
  };

  Told told() const;
  bool learns(Phase phase) const;
  void learn(const vmm::Machine& machine, Phase phase);

  const std::vector<vmm::MemoryImage::Run> layers_;
  mutable std::mutex mutex_;
  Told told_;
  std::size_t clones_ = 0;
  std::vector<std::weak_ptr<Witness>> watched_;
};

}  // namespace cube::snapshot
