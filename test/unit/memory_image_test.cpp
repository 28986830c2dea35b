// Memory in files: which pages of a mapping are its own, base images, layers above them, changes.
#include "snapshot/memory_image.hpp"

#include <sys/stat.h>

#include <map>

#include "snapshot/resident_pages.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using vmm::PageRun;

namespace {

std::shared_ptr<const vmm::ProcessMemory> in_process(std::span<const std::byte> memory) {
  return unwrap(vmm::ProcessMemory::open(std::span(&memory, 1)));
}

/// Those this kernel has: Linux before 6.7 lacks PAGEMAP_SCAN.
std::vector<PageMethod> methods() {
  const Mapping memory(page);
  const auto scanned = resident_pages(*in_process(memory.bytes()), WhichPages::own, PageMethod::scan);
  if (scanned) return {PageMethod::scan, PageMethod::pagemap, PageMethod::automatic};
  REQUIRE((scanned.error().os_errno == ENOTTY || scanned.error().os_errno == EINVAL));
  WARN("this kernel has no PAGEMAP_SCAN");
  return {PageMethod::pagemap, PageMethod::automatic};
}

/// Pages as runs: {first, count, written}.
std::vector<std::array<std::uint64_t, 3>> runs_of(std::span<const std::byte> memory, WhichPages which,
                                                  PageMethod method) {
  std::vector<std::array<std::uint64_t, 3>> found;
  for (const PageRun& run : unwrap(resident_pages(*in_process(memory), which, method))) {
    REQUIRE(run.offset % page == 0);
    REQUIRE(run.bytes % page == 0);
    found.push_back({run.offset / page, run.bytes / page, run.written});
  }
  return found;
}
using Runs = decltype(runs_of({}, WhichPages::own, PageMethod::pagemap));

/// What a layer holds: page to whether it is all zeros.
std::map<std::uint64_t, bool> held_pages(const disk::Layer& layer) {
  std::map<std::uint64_t, bool> held;
  layer.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t index = first; index < first + count; ++index) {
      Bytes content(page);
      REQUIRE(read_exactly(layer.fd(), content, disk::Layer::data_offset + index * page).ok());
      held[index] = content == Bytes(page);
    }
  });
  return held;
}

std::uint64_t allocated_bytes(int fd) {
  struct stat status {};
  REQUIRE(::fstat(fd, &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST_CASE("the pages of anonymous memory that are present are its own, by both methods") {
  const Mapping memory(9000 * page);
  Runs expected;
  for (std::uint64_t index = 0; index < 2400; index += 2) {  // more runs than one ioctl reports
    memory.fill_page(index, 1);
    expected.push_back({index, 1, 1});
  }
  memory.zero_page(3000);  // written, so it is there
  expected.push_back({3000, 1, 1});
  for (std::uint64_t index = 4000; index < 4200; ++index) memory.fill_page(index, 2);
  memory.give_back(4050);
  expected.push_back({4000, 50, 1});
  expected.push_back({4051, 149, 1});
  memory.fill_page(8999, 3);
  expected.push_back({8999, 1, 1});
  for (const PageMethod method : methods()) {
    for (const WhichPages which : {WhichPages::present, WhichPages::own})
      CHECK(runs_of(memory.bytes(), which, method) == expected);
    CHECK(runs_of(memory.bytes().subspan(4000 * page, 60 * page), WhichPages::own, method) ==
          Runs{{0, 50, 1}, {51, 9, 1}});
  }
}

TEST_CASE("a page that was only read is zeros, and a page put out to swap is there still") {
  const Mapping memory(100 * page);
  CHECK(memory.page(7)[0] == std::byte{0});
  for (std::uint64_t index = 40; index < 60; ++index) memory.fill_page(index, 4);
  // Where there is swap; elsewhere they stay in memory.
  ::madvise(memory.page(40).data(), 20 * page, MADV_PAGEOUT);
  const Runs found = runs_of(memory.bytes(), WhichPages::own, PageMethod::automatic);
  CHECK(std::ranges::count(found, std::array<std::uint64_t, 3>{40, 20, 1}) == 1);
  for (const auto& [first, count, written] : found) CHECK((first == 7 || first == 40));
  for (const PageMethod method : methods()) CHECK(runs_of(memory.bytes(), WhichPages::own, method) == found);
}

TEST_CASE("of an image's mapping only what was written is its own, until it is given back") {
  const Place place;
  const auto file = shared_file(place, pattern(600 * page, 1));
  const Mapping memory(600 * page, file->fd());
  CHECK(memory.page(50)[0] == pattern(600 * page, 1)[50 * page]);  // read, and so present
  for (const std::uint64_t index : {3u, 4u, 5u, 100u, 599u}) memory.fill_page(index, 2);
  memory.give_back(4);
  const Runs own{{3, 1, 1}, {5, 1, 1}, {100, 1, 1}, {599, 1, 1}};
  const Runs all = runs_of(memory.bytes(), WhichPages::present, PageMethod::automatic);
  for (const PageMethod method : methods()) {
    CHECK(runs_of(memory.bytes(), WhichPages::own, method) == own);
    CHECK(runs_of(memory.bytes(), WhichPages::present, method) == all);
  }
  Runs written;
  bool has_read_page = false;
  for (const auto& run : all) {
    if (run[2] == 1) written.push_back(run);
    has_read_page |= run[2] == 0 && run[0] <= 50 && 50 < run[0] + run[1];
  }
  CHECK(written == own);
  CHECK(has_read_page);
}

TEST_CASE("a base image holds the pages that are not zeros, and its checksum does not depend on holes") {
  const Place place;
  const Booted booted(place);
  booted.low.give_back(2);
  const auto file = shared_file(place, {});
  const std::uint32_t checksum = unwrap(write_base_image(file->fd(), *unwrap(booted.machine.memory())));
  CHECK(allocated_bytes(file->fd()) == 6 * page);
  Bytes content(memory_bytes);
  REQUIRE(read_exactly(file->fd(), content, 0).ok());
  Bytes expected = copy_of(booted.low.bytes());
  const Bytes high = copy_of(booted.high.bytes());
  expected.insert(expected.end(), high.begin(), high.end());
  CHECK(content == expected);
  CHECK(unwrap(checksum_base_image(file->fd(), memory_bytes)) == checksum);
  const auto dense = shared_file(place, content);
  CHECK(unwrap(checksum_base_image(dense->fd(), memory_bytes)) == checksum);
}

TEST_CASE("the checksum of a base image notices a bit, a page that moved, and a page that came or went") {
  const Place place;
  Bytes content(64 * page);
  const Bytes one = pattern(page, 1);
  std::ranges::copy(one, content.begin() + 5 * page);
  const auto checksum_of = [&] {
    const auto file = shared_file(place, content);
    return unwrap(checksum_base_image(file->fd(), content.size()));
  };
  const std::uint32_t checksum = checksum_of();
  content[5 * page + 17] ^= std::byte{4};
  CHECK(checksum_of() != checksum);
  std::fill_n(content.begin() + 5 * page, page, std::byte{0});
  CHECK(checksum_of() != checksum);
  std::ranges::copy(one, content.begin() + 6 * page);
  CHECK(checksum_of() != checksum);
  std::ranges::copy(one, content.begin() + 5 * page);
  CHECK(checksum_of() != checksum);
}

TEST_CASE("a view reads the newest layer of each page, across every border") {
  constexpr std::uint64_t pages = 24;
  const Place place;
  const Bytes base = pattern(pages * page, 99);
  const std::vector<Pages> layers = {
      {{2, 12}, {3, 13}, {4, 14}, {5, 15}, {6, 16}, {7, 17}, {23, 33}},
      {{4, 24}, {5, 25}, {7, 0}, {12, 42}},  // overlaps, zeros over data, one of its own
      {{5, 35}, {0, 50}, {8, 0}},
  };
  Bytes expected = base;
  Layers opened;
  for (const Pages& held : layers) {
    opened.push_back(make_layer(place, pages, held));
    for (const auto& [index, seed] : held)
      std::ranges::copy(seed == 0 ? Bytes(page) : pattern(page, seed),
                        expected.begin() + static_cast<std::ptrdiff_t>(index * page));
  }
  const MemoryView view(shared_file(place, base), opened, pages * page);

  std::uint64_t end = 0;
  for (const auto& run : view.runs()) {
    CHECK(run.memory_offset >= end);
    end = run.memory_offset + run.bytes;
    CHECK(run.file_offset % page == 0);
  }
  CHECK(view.runs().size() == 9);  // 0 | 2-3 | 4 | 5 | 6 | 7 | 8 | 12 | 23
  std::size_t differ = 0;
  for (std::uint64_t first = 0; first < pages; ++first)
    for (std::uint64_t count = 1; first + count <= pages; ++count) {
      Bytes part(count * page);
      REQUIRE(view.read(first * page, part).ok());
      differ +=
          std::equal(part.begin(), part.end(), expected.begin() + static_cast<std::ptrdiff_t>(first * page))
              ? 0
              : 1;
    }
  CHECK(differ == 0);
}

TEST_CASE("changes are the own pages that differ: data stored, zeros marked, the same left out") {
  const Place place;
  const SnapshotPtr parent = capture_chain(place, 2);
  const Restored clone(place, parent);
  const Mapping& memory = clone.memory();
  const Files files = files_of(place, parent);
  const MemoryView view(files.memory, files.memory_layers, memory_bytes);

  memory.page(150)[0] = memory.page(150)[0];  // its own, but the same; and so are the runs that were copied
  memory.fill_page(1, 77);                    // over the base
  memory.fill_page(60, 78);                   // over a layer
  memory.zero_page(0);                        // data to zeros
  memory.zero_page(21);
  memory.zero_page(100);  // zeros to zeros
  memory.fill_page(200, 79);
  memory.give_back(200);  // as before again
  memory.fill_page(339, 80);
  const auto layer =
      unwrap(collect_changes(view, *in_process(memory.bytes()), WhichPages::own, place.scratch)).layer;
  CHECK(held_pages(*layer) ==
        std::map<std::uint64_t, bool>{{0, true}, {1, false}, {21, true}, {60, false}, {339, false}});
  CHECK(allocated_bytes(layer->fd()) == 3 * page);

  Layers above = files.memory_layers;
  above.push_back(layer);
  Bytes content(memory_bytes);
  REQUIRE(MemoryView(files.memory, above, memory_bytes).read(0, content).ok());
  CHECK(content == copy_of(memory.bytes()));
}

TEST_CASE("an untouched clone has no changes, also if all of it was read") {
  const Place place;
  const SnapshotPtr parent = capture_chain(place, 1);
  const Restored clone(place, parent);
  CHECK(copy_of(clone.memory().bytes()) == content_of(place, parent).memory);
  const Files files = files_of(place, parent);
  const MemoryView view(files.memory, files.memory_layers, memory_bytes);
  const auto memory = in_process(clone.memory().bytes());
  CHECK(unwrap(collect_changes(view, *memory, WhichPages::own, place.scratch)).layer->held_clusters() == 0);
}

TEST_CASE("changes are found in several regions and in runs of more than a megabyte") {
  const Place place;
  constexpr std::size_t pages = 700;
  const auto base = shared_file(place, Bytes(2 * pages * page));
  const MemoryView view(base, {}, 2 * pages * page);
  const Mapping low(pages * page), high(pages * page);
  for (std::size_t index = 0; index < pages; ++index) low.fill_page(index, static_cast<unsigned>(index));
  high.fill_page(5, 5);
  const std::vector<std::span<const std::byte>> regions = {low.bytes(), high.bytes()};
  const auto memory = unwrap(vmm::ProcessMemory::open(regions));
  const auto layer = unwrap(collect_changes(view, *memory, WhichPages::own, place.scratch)).layer;
  CHECK(layer->held_clusters() == pages + 1);
  CHECK(layer->holds(pages + 5));
  Bytes content(2 * pages * page);
  REQUIRE(MemoryView(base, {layer}, content.size()).read(0, content).ok());
  CHECK(std::equal(content.begin(), content.begin() + pages * page, low.bytes().begin()));
  CHECK(std::equal(content.begin() + pages * page, content.end(), high.bytes().begin()));
}

TEST_CASE("a file that was cut is an error, not zeros") {
  const Place place;
  const auto base = shared_file(place, pattern(8 * page, 1));
  const MemoryView view(base, {}, 16 * page);
  Bytes content(2 * page);
  CHECK(view.read(6 * page, content).ok());
  CHECK(view.read(7 * page, content).error().code == ErrorCode::corrupt);
}
