// Captures of captures: what each of a chain holds, merging it, and putting the merged one in its place.
#include <unistd.h>

#include "faulty_io.hpp"
#include "snapshot/metadata.hpp"
#include "snapshot/publication.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;

namespace {

std::shared_ptr<disk::CowDisk> disk_of(const SnapshotPtr& snapshot) { return unwrap(snapshot->open_disk()); }

}  // namespace

TEST_CASE("every capture of a machine stays what it was while the machine goes on") {
  const Place place;
  Booted booted(place);
  std::vector<SnapshotPtr> captures = {unwrap(booted.capture())};
  std::vector<Bytes> memories = {content_of(place, captures[0]).memory};
  const auto disk = disk_of(captures[0]);
  std::vector<Bytes> disks = {read_bytes(*disk, 0, disk_bytes)};
  for (unsigned step = 1; step <= 4; ++step) {
    // The booted machine itself, whose pages are all its own: only what differs is stored.
    booted.low.fill_page(step, 300 + step);
    booted.low.zero_page(150);
    booted.high.fill_page(7, 400 + step);
    REQUIRE(write_bytes(*disk, step * page, pattern(page, step)).ok());
    captures.push_back(unwrap(capture(captures.back(), booted.machine, *disk)));
    Bytes memory = copy_of(booted.low.bytes());
    memory.insert(memory.end(), booted.high.bytes().begin(), booted.high.bytes().end());
    memories.push_back(std::move(memory));
    disks.push_back(read_bytes(*disk, 0, disk_bytes));
  }
  for (std::size_t step = 0; step < captures.size(); ++step) {
    const Content content = content_of(place, captures[step]);
    CHECK(content.memory == memories[step]);
    CHECK(content.disk == disks[step]);
    CHECK(captures[step]->depth() == step);
  }
  const Files files = files_of(place, captures.back());
  CHECK(files.memory_layers[0]->held_clusters() == 3);
  CHECK(files.memory_layers[3]->held_clusters() == 2);
}

TEST_CASE("a capture of what has not changed adds no layer") {
  const Place place;
  const SnapshotPtr parent = capture_chain(place, 1);
  Restored clone(place, parent);
  const SnapshotPtr same = unwrap(capture(parent, clone.machine(), clone.disk()));
  CHECK(same->depth() == parent->depth());
  CHECK(content_of(place, same).memory == content_of(place, parent).memory);
}

TEST_CASE("a machine booted from a snapshot without memory is captured whole") {
  const Place place;
  Booted booted(place);
  const SnapshotPtr first = unwrap(booted.capture());
  const SnapshotPtr disk_only = unwrap(capture_disk(first, *disk_of(first)));
  const auto disk = disk_of(disk_only);
  const SnapshotPtr second = unwrap(capture(disk_only, booted.machine, *disk));
  CHECK(second->has_memory());
  CHECK(content_of(place, second).memory == content_of(place, first).memory);
  REQUIRE(second->publish(place / "second").ok());
  CHECK(unwrap(open(place / "second", place.scratch))->verify().ok());
}

TEST_CASE("clones of one snapshot do not see each other") {
  const Place place;
  const SnapshotPtr parent = capture_chain(place, 2);
  const Content before = content_of(place, parent);
  Restored one(place, parent), other(place, parent);
  one.memory().fill_page(60, 1);
  REQUIRE(write_bytes(one.disk(), 15 * page, pattern(page, 1)).ok());
  const SnapshotPtr captured = unwrap(capture(parent, one.machine(), one.disk()));
  CHECK(copy_of(other.memory().bytes()) == before.memory);
  CHECK(read_bytes(other.disk(), 0, disk_bytes) == before.disk);
  CHECK(content_of(place, parent) == before);
  CHECK_FALSE(content_of(place, captured) == before);
}

TEST_CASE("merging keeps what a chain holds, in one layer at most") {
  const std::size_t layers = GENERATE(0u, 1u, 2u, 5u);
  const Place place;
  const SnapshotPtr deep = capture_chain(place, layers);
  const SnapshotPtr merged = unwrap(merge(deep));
  CHECK(merged->depth() == std::min<std::size_t>(layers, 1));
  CHECK(content_of(place, merged) == content_of(place, deep));
  REQUIRE(merged->publish(place / "merged").ok());
  CHECK(content_of(place, place / "merged") == content_of(place, deep));
}

TEST_CASE("a snapshot without memory merges its disk") {
  const Place place;
  const SnapshotPtr deep = capture_chain(place, 3);
  const SnapshotPtr disk_only = unwrap(capture_disk(deep, *disk_of(deep)));
  const SnapshotPtr merged = unwrap(merge(disk_only));
  CHECK(merged->depth() == 1);
  CHECK_FALSE(merged->has_memory());
  CHECK(content_of(place, merged) == content_of(place, disk_only));
}

TEST_CASE("rebasing puts the merge under what came later, for the snapshot and the running disk") {
  const Place place;
  const SnapshotPtr before = capture_chain(place, 3);
  Restored clone(place, before);
  clone.memory().fill_page(60, 900);
  REQUIRE(write_bytes(clone.disk(), 15 * page, pattern(page, 900)).ok());
  const SnapshotPtr later = unwrap(capture(before, clone.machine(), clone.disk()));
  REQUIRE(write_bytes(clone.disk(), 14 * page, pattern(page, 901)).ok());
  const Bytes disk = read_bytes(clone.disk(), 0, disk_bytes);
  const Content content = content_of(place, later);

  const SnapshotPtr merged = unwrap(merge(before));
  const SnapshotPtr rebased = rebase(later, before, merged, clone.disk());
  CHECK(rebased->depth() == 2);
  CHECK(content_of(place, rebased) == content);
  CHECK(read_bytes(clone.disk(), 0, disk_bytes) == disk);

  // The next capture descends from the rebased one.
  clone.memory().fill_page(61, 902);
  const SnapshotPtr next = unwrap(capture(rebased, clone.machine(), clone.disk()));
  CHECK(next->depth() == 3);
  CHECK(content_of(place, next).memory == copy_of(clone.memory().bytes()));
  CHECK(content_of(place, next).disk == disk);
}

TEST_CASE("the last capture itself is rebased onto its merge") {
  const Place place;
  const SnapshotPtr before = capture_chain(place, 3);
  const auto disk = disk_of(before);
  const SnapshotPtr rebased = rebase(before, before, unwrap(merge(before)), *disk);
  CHECK(rebased->depth() == 1);
  CHECK(content_of(place, rebased) == content_of(place, before));
  CHECK(read_bytes(*disk, 0, disk_bytes) == content_of(place, before).disk);
}

TEST_CASE("what does not descend from the merged snapshot is left as it is") {
  const Place place;
  const SnapshotPtr older = capture_chain(place, 1);
  Restored clone(place, older);
  SnapshotPtr deep = older;
  for (unsigned step = 0; step < 3; ++step) {
    clone.memory().fill_page(step, 700 + step);
    REQUIRE(write_bytes(clone.disk(), step * page, pattern(page, step)).ok());
    deep = unwrap(capture(deep, clone.machine(), clone.disk()));
  }
  const SnapshotPtr merged = unwrap(merge(deep));
  // Meanwhile the machine went back to the older one, or was booted from its disk.
  const SnapshotPtr later =
      GENERATE_COPY(as<bool>(), false, true) ? unwrap(capture_disk(older, *disk_of(older))) : older;
  const auto disk = disk_of(later);
  CHECK(rebase(later, deep, merged, *disk) == later);
  CHECK(read_bytes(*disk, 0, disk_bytes) == content_of(place, later).disk);
}

TEST_CASE("a snapshot takes the place of another, whose users go on") {
  const Place place;
  const SnapshotPtr deep = capture_chain(place, 3);
  const std::string target = place / "snapshot";
  REQUIRE(deep->publish(target).ok());
  const SnapshotPtr opened = unwrap(open(target, place.scratch));
  const Content content = content_of(place, opened);
  REQUIRE(unwrap(merge(opened))->publish_over(target).ok());
  CHECK(place.names() == Names{"image", "snapshot"});
  CHECK(unwrap(open(target, place.scratch))->depth() == 1);
  CHECK(content_of(place, target) == content);
  CHECK(content_of(place, opened) == content);

  CHECK(opened->publish_over(place / "missing").error().code == ErrorCode::not_found);
  CHECK(place.names() == Names{"image", "snapshot"});
}

TEST_CASE("whenever a daemon dies while it replaces a snapshot, one of the two is there, whole") {
  const Place place;
  const SnapshotPtr deep = capture_chain(place, 2);
  const SnapshotPtr merged = unwrap(merge(deep));
  const Content content = content_of(place, deep);
  const std::string target = place / "snapshot";
  REQUIRE(deep->publish(target).ok());
  std::set<std::size_t> depths;
  std::uint64_t calls = 0;
  for (bool died = true; died; ++calls) {
    const int status = in_child([&] {
      const cube::test::FaultyIo faulty(calls + 1, cube::test::Fault::death);
      return merged->publish_over(target).ok() ? 0 : 1;
    });
    died = status == cube::test::death_status;
    REQUIRE((died || status == 0));
    INFO("call " << calls + 1);
    const SnapshotPtr found = unwrap(open(target, place.scratch));
    depths.insert(found->depth());
    CHECK(content_of(place, target) == content);
    REQUIRE(remove_leftovers(place.directory.path).ok());
    CHECK(place.names() == Names{"image", "snapshot"});
    if (found->depth() == 1) {
      REQUIRE(remove(target).ok());
      REQUIRE(deep->publish(target).ok());
    }
  }
  CHECK(depths == std::set<std::size_t>{1, 2});
  CHECK(calls > 10);
}

TEST_CASE("no snapshot is published that would not be opened") {
  const Place place;
  const SnapshotPtr fits = capture_chain(place, most_layers);
  REQUIRE(fits->publish(place / "fits").ok());
  CHECK(open(place / "fits", place.scratch).ok());
  Restored clone(place, fits);
  clone.memory().fill_page(60, 901);
  const SnapshotPtr deeper = unwrap(capture(fits, clone.machine(), clone.disk()));
  CHECK(deeper->publish(place / "deeper").error().code == ErrorCode::invalid_argument);
  CHECK(place.names() == Names{"image", "fits"});
  CHECK(unwrap(merge(deeper))->publish(place / "merged").ok());
}

TEST_CASE("the bytes that are a machine's own are counted") {
  const Place place;
  const SnapshotPtr parent = capture_booted(place);
  Restored clone(place, parent);
  CHECK(private_bytes(clone.machine()) == 0);
  clone.memory().fill_page(1, 1);
  clone.memory().fill_page(200, 1);
  CHECK(clone.memory().page(3)[0] == std::byte{0});  // read only
  CHECK(private_bytes(clone.machine()) == 2 * page);
}
