// Snapshots as directories: what is published opens again, what fails leaves nothing.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "snapshot/publication.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using cube::disk::test::load;
using cube::disk::test::store;
using namespace std::string_literals;

TEST_CASE("a published snapshot opens with what was captured") {
  const Place place;
  const std::string target = place / "snapshot";
  Booted booted(place);
  const SnapshotPtr captured = unwrap(booted.capture());
  REQUIRE(captured->publish(target).ok());
  CHECK(place.names() == Names{"image", "snapshot"});

  const SnapshotPtr opened = unwrap(open(target, place.scratch));
  CHECK(opened->shape().vcpu_count == 2);
  CHECK(opened->shape().memory_bytes == memory_bytes);
  CHECK(opened->shape().disk_bytes == disk_bytes);
  CHECK(opened->has_memory());
  CHECK(opened->depth() == 0);
  CHECK(opened->verify().ok());
  const Content content = content_of(place, target);
  CHECK(content.state == std::string("state\0of it", 11));
  CHECK(std::equal(content.memory.begin(), content.memory.begin() + low_pages * page,
                   booted.low.bytes().begin()));
  CHECK(std::equal(content.memory.begin() + low_pages * page, content.memory.end(),
                   booted.high.bytes().begin()));
  Bytes disk = load(booted.image);
  disk.resize(disk_bytes);
  CHECK(content.disk == disk);

  for (const auto& file : fs::directory_iterator(target)) {
    INFO(file.path());
    CHECK((file.status().permissions() & fs::perms::all) == fs::perms::owner_read);
  }
}

TEST_CASE("what is captured survives being published and opened, whatever its layers") {
  const std::size_t layers = GENERATE(0u, 1u, 3u);
  const Place place;
  const SnapshotPtr captured = capture_chain(place, layers);
  CHECK(captured->depth() == layers);
  const std::string target = place / "snapshot";
  REQUIRE(captured->publish(target).ok());
  const SnapshotPtr opened = unwrap(open(target, place.scratch));
  CHECK(opened->depth() == layers);
  CHECK(content_of(place, opened) == content_of(place, captured));
  // And once more: an opened snapshot is published as a captured one is.
  REQUIRE(opened->publish(place / "second").ok());
  CHECK(content_of(place, place / "second") == content_of(place, target));
  CHECK(text_of(target + "/snapshot.json") == text_of(place / "second/snapshot.json"));
}

TEST_CASE("snapshots share the files of what they have in common") {
  const Place place;
  const SnapshotPtr first = capture_chain(place, 1);
  REQUIRE(first->publish(place / "first").ok());
  Restored clone(place, first);
  clone.memory().fill_page(1, 501);
  const SnapshotPtr second = unwrap(capture(first, clone.machine(), clone.disk()));
  REQUIRE(second->publish(place / "second").ok());
  for (const char* name : {"memory", "memory.1", "disk", "disk.1"})
    CHECK(fs::equivalent(place / ("first/"s + name), place / ("second/"s + name)));
  CHECK_FALSE(fs::exists(place / "second/disk.2"));  // nothing was written to the disk
  CHECK(fs::exists(place / "second/memory.2"));
}

TEST_CASE("a capture is published after the directory it descends from is gone") {
  const Place place;
  REQUIRE(capture_chain(place, 1)->publish(place / "template").ok());
  SnapshotPtr parent = unwrap(open(place / "template", place.scratch));
  const Content before = content_of(place, parent);
  REQUIRE(remove(place / "template").ok());
  CHECK(remove(place / "template").error().code == ErrorCode::not_found);
  CHECK(error_of_opening(place, place / "template").code == ErrorCode::not_found);

  Restored clone(place, parent);
  CHECK(content_of(place, parent) == before);
  clone.memory().fill_page(5, 5);
  REQUIRE(write_bytes(clone.disk(), 0, pattern(page, 5)).ok());
  const SnapshotPtr child = unwrap(capture(parent, clone.machine(), clone.disk()));
  parent.reset();
  REQUIRE(child->publish(place / "checkpoint").ok());
  const Content after = content_of(place, place / "checkpoint");
  CHECK(after.memory == copy_of(clone.memory().bytes()));
  CHECK(after.disk == read_bytes(clone.disk(), 0, disk_bytes));
}

TEST_CASE("nothing is left in the scratch directory when nobody uses it any more") {
  const Place place;
  {
    const SnapshotPtr snapshot = capture_chain(place, 2);
    REQUIRE(snapshot->publish(place / "snapshot").ok());
    CHECK(place.scratch_names() > 0);
  }
  CHECK(place.scratch_names() == 0);
  CHECK(open(place / "snapshot", place.scratch).ok());
  CHECK(place.scratch_names() == 0);
  REQUIRE(remove(place / "snapshot").ok());
  CHECK(place.names() == Names{"image"});
}

TEST_CASE("a snapshot of the disk alone has neither memory nor state") {
  const Place place;
  const SnapshotPtr parent = capture_chain(place, 1);
  Restored clone(place, parent);
  REQUIRE(write_bytes(clone.disk(), 0, pattern(page, 9)).ok());
  const SnapshotPtr disk_only = unwrap(capture_disk(parent, clone.disk()));
  CHECK_FALSE(disk_only->has_memory());
  CHECK(disk_only->verify().ok());
  REQUIRE(disk_only->publish(place / "snapshot").ok());
  CHECK(Names{"snapshot.json", "disk", "disk.1", "disk.2"} == [&] {
    Names names;
    for (const auto& file : fs::directory_iterator(place / "snapshot")) names.insert(file.path().filename());
    return names;
  }());
  const SnapshotPtr opened = unwrap(open(place / "snapshot", place.scratch));
  CHECK_FALSE(opened->has_memory());
  CHECK(content_of(place, opened).disk == read_bytes(clone.disk(), 0, disk_bytes));
  ShellPool shells(nullptr, {}, 0);
  CHECK(opened->clone(shells, {}, {}).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("a failure in the middle leaves nothing behind") {
  const Place place;
  Booted booted(place);
  Names before = place.names();
  ErrorCode expected = ErrorCode::already_exists;
  const std::string target = place / "snapshot";
  SECTION("a disk image on another file system") {
    booted.image = "/proc/version";
    expected = ErrorCode::invalid_argument;
  }
  SECTION("memory of another size than the shape says") {
    booted.shape.memory_bytes += page;
    expected = ErrorCode::invalid_argument;
  }
  SECTION("a shape no machine has") {
    booted.shape.vcpu_count = 0;
    expected = ErrorCode::invalid_argument;
  }
  SECTION("a target that exists") {
    fs::create_directory(target);
    before.insert("snapshot");
  }
  SECTION("a target that appears meanwhile") {
    auto pending = unwrap(PendingDirectory::create(target));
    fs::create_directory(target);
    before.insert("snapshot");
    CHECK(pending.publish().error().code == ErrorCode::already_exists);
  }
  {
    auto captured = booted.capture();
    const auto done = captured ? (*captured)->publish(target) : Result<void>(captured.error());
    REQUIRE_FALSE(done.ok());
    CHECK(done.error().code == expected);
    CHECK_FALSE(done.error().message.empty());
  }
  CHECK(place.names() == before);
  CHECK(place.scratch_names() == 0);
}

TEST_CASE("a machine of another size is not captured as a child, and the parent stays its parent") {
  const Place place;
  const SnapshotPtr parent = capture_booted(place);
  Restored clone(place, parent);
  const Mapping larger(memory_bytes + page);
  FakeMachine other({larger.bytes()});
  REQUIRE(write_bytes(clone.disk(), 0, pattern(page, 9)).ok());
  CHECK(capture(parent, other, clone.disk()).error().code == ErrorCode::invalid_argument);
  CHECK(clone.disk().dirty_bytes() == page);
  CHECK(capture(parent, clone.machine(), clone.disk()).ok());
}

TEST_CASE("a host that cannot store all of memory gets an error and no half snapshot") {
  const Place place;
  Booted booted(place);
  CHECK(in_child([&] {
          ::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit{200 * page, 200 * page};  // in the middle of the image's runs of data
          if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
          const auto captured = booted.capture();
          if (captured.ok() || captured.error().os_errno != EFBIG) return 2;
          return place.scratch_names() == 0 ? 0 : 3;
        }) == 0);
}

TEST_CASE("what a killed writer leaves is a left-over, never a snapshot") {
  const Place place;
  const SnapshotPtr snapshot = capture_booted(place);
  const std::string target = place / "snapshot";
  REQUIRE(in_child([&] {
            const auto pending = PendingDirectory::create(target);
            if (!pending || !fill_directory(*pending, files_of(place, snapshot))) return 1;
            ::_exit(0);
          }) == 0);
  CHECK(error_of_opening(place, target).code == ErrorCode::not_found);
  CHECK(place.names().size() == 2);
  REQUIRE(remove_leftovers(place.directory.path).ok());
  CHECK(place.names() == Names{"image"});
  REQUIRE(disk::remove_scratch_files(place.scratch).ok());
  CHECK(place.scratch_names() == 0);
}

TEST_CASE("left-overs of a crash are removed and nothing else") {
  const TemporaryDirectory directory;
  const Bytes stays = pattern(10, 1);
  const std::string random = "0123456789abcdef";
  const Names kept = {".tmp-",
                      ".tmp-short",
                      ".tmp-0123456789ABCDEF",
                      ".del-" + random + "0",
                      "a.tmp-" + random,
                      ".new-" + random,
                      "snapshot",
                      "outside"};
  for (const auto& name : kept) fs::create_directory(directory / name);
  store(directory / "outside/file", stays);
  for (const std::string& name : {".tmp-" + random, ".del-" + random}) {
    fs::create_directories(directory / (name + "/deep/deeper"));
    store(directory / (name + "/deep/file"), stays);
    fs::create_directory_symlink(directory / "outside", directory / (name + "/deep/link"));
  }
  // Not directories, so not ours.
  store(directory / ".tmp-aaaaaaaaaaaaaaaa", stays);
  fs::create_directory_symlink(directory / "outside", directory / ".del-aaaaaaaaaaaaaaaa");

  REQUIRE(remove_temporary_directories(directory.path).ok());
  Names expected = kept;
  expected.insert({".tmp-aaaaaaaaaaaaaaaa", ".del-aaaaaaaaaaaaaaaa"});
  CHECK(directory.names() == expected);
  CHECK(load(directory / "outside/file") == stays);
  CHECK(remove_temporary_directories(directory / "missing").error().code == ErrorCode::not_found);
}

TEST_CASE("only a directory is removed as a snapshot") {
  const TemporaryDirectory directory;
  store(directory / "file", pattern(10, 1));
  fs::create_directory(directory / "real");
  fs::create_directory_symlink(directory / "real", directory / "link");
  CHECK(remove_directory(directory / "file").error().code == ErrorCode::invalid_argument);
  CHECK(remove_directory(directory / "link").error().code == ErrorCode::invalid_argument);
  CHECK(remove_directory(directory / "missing").error().code == ErrorCode::not_found);
  for (const char* path : {"", "/", ".", "..", "a/.."})
    CHECK(remove_directory(path).error().code == ErrorCode::invalid_argument);
  CHECK(directory.names() == Names{"file", "real", "link"});
  CHECK(remove_directory(directory / "real/").ok());
}
