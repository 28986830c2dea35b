// Which small runs of an image are joined, and that what is gathered reads as it did before.
#include "snapshot/gathered_runs.hpp"

#include <random>

#include "faulty_io.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using cube::test::Fault;
using cube::test::FaultyIo;
using vmm::MemoryImage;
using vmm::PageRun;

namespace {

constexpr std::uint64_t unit = MemoryImage::least_mapped_bytes / page;
constexpr std::uint64_t large = large_run_bytes / page;
constexpr std::uint64_t no_limit = UINT64_MAX;

/// {first, count} in pages.
using Pages = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

std::vector<MemoryImage::Run> runs_of(const Pages& pages) {
  std::vector<MemoryImage::Run> runs;
  for (const auto& [first, count] : pages) runs.push_back({first * page, count * page, -1, 0});
  return runs;
}

Pages joined(const Pages& pages, std::size_t most, std::uint64_t most_pages = no_limit / page) {
  Pages found;
  for (const PageRun& piece : join_closest(runs_of(pages), most, most_pages * page))
    found.push_back({piece.offset / page, piece.bytes / page});
  return found;
}

/// A layer whose pages hold their numbers.
std::shared_ptr<const disk::Layer> make_layer(const Place& place, std::uint64_t pages, const Pages& held) {
  auto writer = unwrap(disk::LayerWriter::create(place.scratch, pages * page));
  for (const auto& [first, count] : held)
    for (std::uint64_t i = first; i < first + count; ++i)
      REQUIRE(writer->write(i * page, pattern(page, static_cast<unsigned>(i))).ok());
  return writer->finish();
}

}  // namespace

TEST_CASE("the closest runs are joined, in units that restores map") {
  CHECK(joined({}, 1) == Pages{});
  CHECK(joined({{1, 1}}, 1) == Pages{{0, unit}});
  CHECK(joined({{1, 1}, {3, 2}}, 9) == Pages{{0, 2 * unit}});  // neighbouring units are one
  const Pages three{{0, 1}, {40, 1}, {60, 1}};
  CHECK(joined(three, 3) == Pages{{0, unit}, {40, unit}, {60, unit}});
  CHECK(joined(three, 2) == Pages{{0, unit}, {40, 20 + unit}});
  CHECK(joined(three, 1) == Pages{{0, 60 + unit}});
  CHECK(joined(three, 0) == joined(three, 1));
}

TEST_CASE("nothing is joined that would come to too much") {
  const Pages two{{0, 1}, {100, 1}};
  CHECK(joined(two, 1, 100 + unit) == Pages{{0, 100 + unit}});
  const Pages apart{{0, unit}, {100, unit}};
  CHECK(joined(two, 1, 100 + unit - 1) == apart);
  CHECK(joined(two, 1, unit) == apart);
  CHECK(joined(two, 2) == apart);
  CHECK(joined({{0, 1}, {100, 1}, {120, 1}}, 1, 20 + 2 * unit) == Pages{{0, unit}, {100, 20 + unit}});
}

TEST_CASE("large runs stay where they are, and nothing is joined across them") {
  CHECK(joined({{0, large}}, 1) == Pages{});
  const Pages around{{9, 1}, {11, large}, {11 + large, 1}, {20 + large, 1}};
  CHECK(joined(around, 1) == Pages{{8, 3}, {11 + large, 13}});
}

TEST_CASE("whatever the runs are, the pieces hold the small ones and are apart") {
  std::minstd_rand random(7);
  for (int round = 0; round < 200; ++round) {
    Pages runs;
    std::uint64_t at = random() % 5;
    for (std::size_t i = 0; i < random() % 60; ++i) {
      const std::uint64_t count = random() % 8 == 0 ? large + random() % 9 : 1 + random() % 12;
      runs.push_back({at, count});
      at += count + 1 + random() % 30;
    }
    const std::size_t most = 1 + random() % 20;
    const Pages pieces = joined(runs, most);
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
  Pages scattered, above;
  for (std::uint64_t i = 0; i < 300; ++i) scattered.push_back({i * 7 + i % 3, 1 + i % 2});
  scattered.push_back({2500, large});
  for (std::uint64_t i = 0; i < 40; ++i) above.push_back({2498 + i * 5, 1});
  const auto base = unwrap(disk::SharedFile::create(place.scratch));
  REQUIRE(write_exactly(base->fd(), pattern(pages * page, 99), 0).ok());
  const MemoryView view(base, {make_layer(place, pages, scattered), make_layer(place, pages, above)},
                        pages * page);
  const auto gathered = unwrap(GatheredRuns::make(view, place.scratch));
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
  const auto base = unwrap(disk::SharedFile::create(place.scratch));
  Pages few, far;
  for (std::uint64_t i = 0; i < 100; ++i) few.push_back({i * 9, 1});
  for (std::uint64_t i = 0; i < 600; ++i) far.push_back({i * 330, 1});
  for (const Pages& held : {few, far}) {
    const MemoryView view(base, {make_layer(place, pages, held)}, pages * page);
    CHECK(view.runs().size() == held.size());
    CHECK(!unwrap(GatheredRuns::make(view, place.scratch)));
  }
}

TEST_CASE("gathering meets every fault, and what failed leaves no file") {
  const Fault fault = GENERATE(Fault::no_space, Fault::io_error, Fault::interrupted, Fault::short_write);
  const bool visible = fault == Fault::no_space || fault == Fault::io_error;
  const Place place;
  Pages scattered;
  for (std::uint64_t i = 0; i < 300; ++i) scattered.push_back({i * 7, 1});
  const auto base = unwrap(disk::SharedFile::create(place.scratch));
  REQUIRE(write_exactly(base->fd(), Bytes(2100 * page), 0).ok());
  const MemoryView view(base, {make_layer(place, 2100, scattered)}, 2100 * page);
  const std::size_t names = place.scratch_names();
  std::uint64_t faults = 0;
  for (bool fired = true; fired; faults += fired ? 1 : 0) {
    FaultyIo faulty(faults + 1, fault);
    const auto gathered = GatheredRuns::make(view, place.scratch);
    fired = faulty.disarm();
    REQUIRE(gathered.ok() == !(fired && visible));
    CHECK(place.scratch_names() == names + (gathered.ok() ? 1 : 0));
  }
  CHECK(faults >= 2);
}
