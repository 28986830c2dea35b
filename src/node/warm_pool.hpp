// Sandboxes made ahead of time: clones of templates in demand that have become themselves already and wait
// for somebody to want them. Their guests run, so their clocks go right.
//
// Kept by snapshot, as many as recent demand asked for: a request that finds none and succeeds without raises
// the number wanted by one, an idle minute lowers it by one; one in which the pool was still being filled is
// not idle. On the event loop.
#pragma once

#include <cstddef>
#include <cube/node.hpp>
#include <list>

#include "node/sandbox.hpp"

namespace cube::node {

class WarmPool {
 public:
  /// `limit`: sandboxes kept of one snapshot.
  explicit WarmPool(std::size_t limit) : limit_(limit) {}

  /// A waiting clone of that snapshot, or null.
  SandboxPtr take(const CloneSource& source);

  /// One more would have been of use.
  void want_more(const CloneSource& source);

  /// What to make next, if anything: the source in demand that has fewest of what it wants.
  std::optional<CloneSource> next_wanted() const;
  void put(const CloneSource& source, SandboxPtr sandbox, std::uint64_t memory_bytes);

  std::uint64_t memory_bytes() const;
  std::size_t size() const;
  std::size_t wanted() const;

  /// Takes out what waits of snapshots that `current` says nobody can ask for any more.
  std::vector<SandboxPtr> take_outdated(const std::function<bool(const CloneSource&)>& current);

  /// Once a minute: what is more than recent demand wants.
  std::vector<SandboxPtr> age();

  /// All of it; demand starts anew.
  std::vector<SandboxPtr> drain();

  struct Counts {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
  };
  Counts counts() const { return counts_; }

 private:
  struct Waiting {
    SandboxPtr sandbox;
    std::uint64_t memory_bytes = 0;
  };
  struct Shelf {
    CloneSource source;
    std::vector<Waiting> waiting;
    std::size_t wanted = 0;
    bool used = false;  // asked, or being filled, since the last call of age()
  };
  Shelf* find(const CloneSource& source);
  static void empty(Shelf& shelf, std::size_t down_to, std::vector<SandboxPtr>& out);

  std::size_t limit_;
  std::list<Shelf> shelves_;
  Counts counts_;
};

}  // namespace cube::node
