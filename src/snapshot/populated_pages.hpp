// Which pages of this process's memory can hold something other than zeros, without touching them.
//
// A page of private anonymous memory that was never written, or was given back, is neither present nor
// swapped: it reads as zeros. /proc/self/pagemap says so for 8 bytes a page, where reading the page would map
// it. A page of a file mapping that is not present still has the file's content and counts as populated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <span>
#include <vector>

namespace cube::snapshot {

class PopulatedPages {
 public:
  /// Without a readable /proc/self/maps or pagemap every page counts as populated, which is slower only.
  static PopulatedPages examine();

  /// One flag per page of `memory`, which starts on a page. Nobody may change the mappings meanwhile.
  std::vector<bool> find(std::span<const std::byte> memory) const;

 private:
  struct Range {
    std::uintptr_t begin;
    std::uintptr_t end;
  };

  std::vector<Range> anonymous_;  // private anonymous mappings, ascending
  Fd pagemap_;
};

}  // namespace cube::snapshot
