// Which small runs of an image are joined, and that what is gathered reads as it did before.
#include "snapshot/gathered_runs.hpp"

#include <random>

#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using vmm::MemoryImage;
using vmm::PageRun;

namespace {

constexpr std::uint64_t unit = MemoryImage::least_mapped_bytes / page;
constexpr std::uint64_t large = large_run_bytes / page;
constexpr std::uint64_t no_limit = UINT64_MAX;

/// {first, count} in pages.
using Extents = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

std::vector<MemoryImage::Run> runs_of(const Extents& pages) {
  std::vector<MemoryImage::Run> runs;
  for (const auto& [first, count] : pages) runs.push_back({first * page, count * page, -1, 0});
  return runs;
}

Extents joined(const Extents& pages, std::size_t most, std::uint64_t most_pages = no_limit / page) {
  Extents found;
  for (const PageRun& piece : join_closest(runs_of(pages), most, most_pages * page))
    found.push_back({piece.offset / page, piece.bytes / page});
  return found;
}

/// A layer whose pages hold their numbers.
std::shared_ptr<const disk::Layer> layer_of(const Place& place, std::uint64_t pages, const Extents& held) {
  Pages numbered;
  for (const auto& [first, count] : held)
    for (std::uint64_t i = first; i < first + count; ++i) numbered[i] = static_cast<unsigned>(i) + 1;
  return make_layer(place, pages, numbered);
}

}  // namespace

TEST_CASE("the closest runs are joined, in units that restores map") {
  CHECK(joined({}, 1) == Extents{});
  CHECK(joined({{1, 1}}, 1) == Extents{{0, unit}});
  CHECK(joined({{1, 1}, {3, 2}}, 9) == Extents{{0, 2 * unit}});  // neighbouring units are one
  const Extents three{{0, 1}, {40, 1}, {60, 1}};
  CHECK(joined(three, 3) == Extents{{0, unit}, {40, unit}, {60, unit}});
  CHECK(joined(three, 2) == Extents{{0, unit}, {40, 20 + unit}});
  CHECK(joined(three, 1) == Extents{{0, 60 + unit}});
  CHECK(joined(three, 0) == joined(three, 1));
}

TEST_CASE("nothing is joined that would come to too much") {
  const Extents two{{0, 1}, {100, 1}};
  CHECK(joined(two, 1, 100 + unit) == Extents{{0, 100 + unit}});
  const Extents apart{{0, unit}, {100, unit}};
  CHECK(joined(two, 1, 100 + unit - 1) == apart);
  CHECK(joined(two, 1, unit) == apart);
  CHECK(joined(two, 2) == apart);
  CHECK(joined({{0, 1}, {100, 1}, {120, 1}}, 1, 20 + 2 * unit) == Extents{{0, unit}, {100, 20 + unit}});
}

TEST_CASE("large runs stay where they are, and nothing is joined across them") {
  CHECK(joined({{0, large}}, 1) == Extents{});
  const Extents around{{9, 1}, {11, large}, {11 + large, 1}, {20 + large, 1}};
  CHECK(joined(around, 1) == Extents{{8, 3}, {11 + large, 13}});
}

TEST_CASE("whatever the runs are, the pieces hold the small ones and are apart") {
  std::minstd_rand random(7);
  for (int round = 0; round < 200; ++round) {
    Extents runs;
    std::uint64_t at = random() % 5;
    for (std::size_t i = 0; i < random() % 60; ++i) {
      const std::uint64_t count = random() % 8 == 0 ? large + random() % 9 : 1 + random() % 12;
      runs.push_back({at, count});
      at += count + 1 + random() % 30;
    }
    const std::size_t most = 1 + random() % 20;
    const Extents pieces = joined(runs, most);
    std::vector<int> holders(at + 2 * unit);
    std::uint64_t end = 0;
    for (const auto& [first, count] : pieces) {
      REQUIRE((first >= end && count > 0));
      end = first + count;
      for (std::uint64_t i = first; i < end; ++i) ++holders.at(i);
    }
    std::size_t larges = 0;
    for (const auto& [first, count] : runs) {
      larges += count >= large ? 1 : 0;
      for (std::uint64_t i = first; i < first + count; ++i) REQUIRE(holders[i] == (count >= large ? 0 : 1));
    }
    REQUIRE(pieces.size() <= std::max(most, larges + 1));
  }
}

TEST_CASE("what is gathered reads as the layers did") {
  constexpr std::uint64_t pages = 4096;
  const Place place;
  Extents scattered, above;
  for (std::uint64_t i = 0; i < 300; ++i) scattered.push_back({i * 7 + i % 3, 1 + i % 2});
  scattered.push_back({2500, large});
  for (std::uint64_t i = 0; i < 40; ++i) above.push_back({2498 + i * 5, 1});
  const auto base = shared_file(place, pattern(pages * page, 99));
  const MemoryView view(base, {layer_of(place, pages, scattered), layer_of(place, pages, above)},
                        pages * page);
  const auto gathered = unwrap(GatheredRuns::make(view, place.scratch, 4));
  REQUIRE(gathered);
  CHECK(gathered->runs().size() * 2 < view.runs().size());

  Bytes expected(pages * page), found(pages * page);
  REQUIRE(view.read(0, expected).ok());
  REQUIRE(read_exactly(base->fd(), found, 0).ok());
  std::uint64_t end = 0;
  for (const auto& run : gathered->runs()) {
    CHECK(run.memory_offset >= end);
    end = run.memory_offset + run.bytes;
    REQUIRE(
        read_exactly(run.fd, std::span(found).subspan(run.memory_offset, run.bytes), run.file_offset).ok());
  }
  CHECK((found == expected));
}

TEST_CASE("few runs, and such as lie too far from each other, are left as they are") {
  constexpr std::uint64_t pages = 200'000;
  const Place place;
  const auto base = shared_file(place, {});
  Extents few, far;
  for (std::uint64_t i = 0; i < 100; ++i) few.push_back({i * 9, 1});
  for (std::uint64_t i = 0; i < 600; ++i) far.push_back({i * 330, 1});
  for (const Extents& held : {few, far}) {
    const MemoryView view(base, {layer_of(place, pages, held)}, pages * page);
    CHECK(view.runs().size() == held.size());
    CHECK(!unwrap(GatheredRuns::make(view, place.scratch, 4)));
  }
}
