// Working sets as runs of pages: what is known and what a clone tells, joined.
#include "snapshot/working_set.hpp"

#include <catch2/catch.hpp>

using namespace cube::snapshot;
using cube::vmm::MemoryImage;
using cube::vmm::PageRun;
using Phase = Witness::Phase;

namespace {

constexpr std::uint64_t page = cube::vmm::page_size;

/// A letter a page: '.' nothing, 'r' read, 'w' written.
std::vector<PageRun> runs(std::string_view pages) {
  std::vector<PageRun> runs;
  for (std::size_t i = 0; i < pages.size(); ++i)
    if (pages[i] != '.') runs.push_back({i * page, page, pages[i] == 'w'});
  return runs;
}

std::string text(const std::vector<PageRun>& runs, std::size_t length) {
  std::string pages(length, '.');
  std::uint64_t end = 0;
  for (const PageRun& run : runs) {
    CHECK(run.offset >= end);
    end = run.offset + run.bytes;
    for (std::uint64_t at = run.offset; at < end; at += page) pages.at(at / page) = run.written ? 'w' : 'r';
  }
  return pages;
}

std::string joined(std::string_view known, std::string_view resident, std::string_view copied, Phase phase) {
  std::vector<MemoryImage::Run> layers;
  for (std::size_t i = 0; i < copied.size(); ++i)
    if (copied[i] != '.') layers.push_back({i * page, page, -1, 0});
  return text(add_resident(runs(known), runs(resident), layers, phase), known.size());
}

}  // namespace

TEST_CASE("a working set grows by what a clone has touched") {
  CHECK(joined("......", "..rw..", "......", Phase::came_up) == "..rw..");
  CHECK(joined("rrww..", ".w.r.w", "......", Phase::came_up) == "rwww.w");
  CHECK(joined("r....w", "......", "......", Phase::came_up) == "r....w");
}

TEST_CASE("what only use has written is left out") {
  CHECK(joined("rw....", "wwwr..", "......", Phase::used) == "rw.r..");
}

TEST_CASE("what a restore has copied was not touched by the clone") {
  CHECK(joined("......", ".ww.r.", ".x..x.", Phase::came_up) == "..w.r.");
  CHECK(joined(".r.w..", "wwwww.", ".xxxx.", Phase::came_up) == "wr.w..");
  CHECK(joined("......", ".wwr..", ".x....", Phase::used) == "...r..");
}

TEST_CASE("neighbours of a kind are one run") {
  const auto all = add_resident(runs("rr..ww"), runs("..rr.."), {}, Phase::came_up);
  REQUIRE(all.size() == 2);
  CHECK(all[0].bytes == 4 * page);
  CHECK(all[1].offset == 4 * page);
}
