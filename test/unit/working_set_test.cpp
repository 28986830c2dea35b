// Working sets as runs of pages: what is known and what a clone tells, joined.
#include "snapshot/working_set.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "fake_machine.hpp"

using namespace cube::snapshot;
namespace test = cube::test;
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

using Combine = Runs(std::span<const PageRun>, std::span<const PageRun>);

/// What is known, and what a clone has touched.
std::string combined(Combine combine, std::string_view known, std::string_view present,
                     std::string_view copied) {
  return text(combine(runs(known), touched(runs(present), runs(copied))), known.size());
}

/// Clones of an image whose guests are this test: they touch pages by the same letters. The pages are so far
/// from each other that a fault maps none of the others.
class Clones {
 public:
  static constexpr std::size_t stride = 16;

  explicit Clones(std::size_t count = 8) : pages_(count) {
    REQUIRE(::ftruncate(image_.get(), pages_ * stride * page) == 0);
  }

  /// One that comes up, and is used, if it is told to be.
  void live(std::string_view coming_up, std::string_view use = {}) {
    const auto clone = set->begin_clone();
    const test::Mapping memory(pages_ * stride * page, image_.get());
    const test::FakeMachine machine({memory.bytes()});
    touch(memory, coming_up);
    if (clone.witness) clone.witness->learn(machine, Phase::came_up);
    touch(memory, use);
    if (clone.witness && !use.empty()) clone.witness->learn(machine, Phase::used);
  }

  std::string to_come_up() { return next(&WorkingSet::ForClone::to_come_up); }
  std::string to_be_used() { return next(&WorkingSet::ForClone::to_be_used); }

  std::shared_ptr<WorkingSet> set = std::make_shared<WorkingSet>(nullptr, std::span<MemoryImage::Run>());

 private:
  static void touch(const test::Mapping& memory, std::string_view letters) {
    for (std::size_t i = 0; i < letters.size(); ++i) {
      auto* const place = reinterpret_cast<volatile unsigned char*>(memory.page(i * stride).data());
      if (letters[i] == 'r') static_cast<void>(*place);
      if (letters[i] == 'w') *place = 1;
    }
  }
  std::string next(WorkingSet::Pages WorkingSet::ForClone::*which) {
    const auto clone = set->begin_clone();
    const WorkingSet::Pages& told = clone.*which;
    const std::string all = text(*told, pages_ * stride);
    std::string ours;
    for (std::size_t i = 0; i < all.size(); i += stride) ours += all[i];
    return ours;
  }

  const std::size_t pages_;
  const cube::Fd image_{::memfd_create("image", MFD_CLOEXEC)};
};

}  // namespace

TEST_CASE("a working set grows by what a clone has touched") {
  CHECK(combined(in_either, "......", "..rw..", "......") == "..rw..");
  CHECK(combined(in_either, "rrww..", ".w.r.w", "......") == "rwww.w");
  CHECK(combined(in_either, "r....w", "......", "......") == "r....w");
}

TEST_CASE("use needs what it has touched besides, and to write what was only read") {
  CHECK(combined(beyond, "rrww...", "rw.wrw.", ".......") == ".w..rw.");
}

TEST_CASE("what a restore has copied was not touched by the clone") {
  CHECK(combined(in_either, "......", ".ww.r.", ".r..r.") == "..w.r.");
  CHECK(combined(in_either, ".r.w..", "wwwww.", ".rrrr.") == "wr.w..");
  CHECK(combined(beyond, "......", ".wwr..", ".r....") == "..wr..");
}

TEST_CASE("two lists have pages in common, or complete each other") {
  CHECK(text(in_both(runs("rrww.."), runs("rwrw.r")), 6) == "rrrw..");
  CHECK(text(in_either(runs("rrww.."), runs("rwrw.r")), 6) == "rwww.r");
}

TEST_CASE("neighbours of a kind are one run") {
  const auto all = in_either(runs("rr..ww"), runs("..rr.."));
  REQUIRE(all.size() == 2);
  CHECK(all[0].bytes == 4 * page);
  CHECK(all[1].offset == 4 * page);
}

TEST_CASE("the first clones tell what the next ones have before they run, and when they are used") {
  Clones clones;
  CHECK(clones.to_come_up() == "........");
  clones.live("rw......");
  clones.live("r.w.....", "...rwrw.");
  CHECK(clones.to_come_up() == "rww.....");
  CHECK(clones.to_be_used() == "........");  // one use does not tell what uses have in common
  clones.live("r.......", "...rww.w");
  CHECK(clones.to_come_up() == "rww.....");
  CHECK(clones.to_be_used() == "...rwr..");
  clones.live("rrrrrrrr", "wwwwwwww");
  CHECK(clones.to_come_up() == "rww.....");
  CHECK(clones.to_be_used() == "...rwr..");
}

TEST_CASE("a clone that was hardly used tells nothing of use") {
  Clones clones(16);
  clones.live("rwrwrwrwr.......");
  for (int i = 0; i < 3; ++i) clones.live("rwrwrwrwr.......", ".........r......");
  clones.live("rwrwrwrwr.......", "..........wrwr..");
  CHECK(clones.to_be_used() == "................");
  clones.live("rwrwrwrwr.......", ".........rwrw...");
  CHECK(clones.to_be_used() == "..........wrw...");
}

TEST_CASE("a snapshot of a clone inherits what it read, not which free pages its use took") {
  Clones clones;
  clones.live("rw......", "..rw....");
  clones.live("rw......", "..rw....");
  clones.live("rw......");
  clones.set = std::make_shared<WorkingSet>(clones.set.get(), std::span<MemoryImage::Run>());
  CHECK(clones.to_come_up() == "rw......");
  CHECK(clones.to_be_used() == "..r.....");

  clones.set = std::make_shared<WorkingSet>(*clones.set, WorkingSet::LearnAnew{});
  clones.live("rwr.....");  // the first is not watched: it has what was inherited
  clones.live("rwr.....", "....ww..");
  clones.live("rw......", "....w...");
  CHECK(clones.to_come_up() == "rwr.....");
  CHECK(clones.to_be_used() == "....w...");
}

TEST_CASE("of what a use needs no more than 16 MiB are made present") {
  const auto set = std::make_shared<WorkingSet>(nullptr, std::span<MemoryImage::Run>());
  for (int i = 0; i < 2; ++i) {
    const auto clone = set->begin_clone();
    const test::Mapping memory((16 << 20) + 8 * page);
    const test::FakeMachine machine({memory.bytes()});
    memory.zero_page(1);
    clone.witness->learn(machine, Phase::came_up);
    std::ranges::fill(memory.bytes(), std::byte{1});
    clone.witness->learn(machine, Phase::used);
  }
  const auto told = set->begin_clone();
  CHECK(text(*told.to_come_up, 8) == ".w......");
  REQUIRE(told.to_be_used->size() == 2);
  CHECK(told.to_be_used->front().bytes == page);
  CHECK(told.to_be_used->back().bytes == (16 << 20) - page);
}
