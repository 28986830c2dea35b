// Snapshots as directories: what is published opens again, what is damaged is refused, what fails leaves
// nothing.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "snapshot/metadata.hpp"
#include "snapshot/publication.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using cube::disk::test::load;
using cube::disk::test::store;
using namespace std::string_literals;

namespace {

std::string text_of(const std::string& path) { return read_file(path, 64u << 20).value(); }

/// Replaces a file's content although it is read-only and shared; also when the test does not run as root.
void overwrite(const std::string& path, std::string_view content) {
  store(path, copy_of(std::as_bytes(std::span(content))));
}

Error error_of_opening(const Place& place, const std::string& directory) {
  auto files = open_files(directory, place.scratch);
  return files ? Error{ErrorCode::internal, "opened", 0, ""} : std::move(files).error();
}

/// A published snapshot with two layers on memory and on the disk.
struct Published {
  Place place;
  std::string directory = place / "snapshot";
  SnapshotPtr snapshot = capture_chain(place, 2);
  Published() { REQUIRE(snapshot->publish(directory).ok()); }
  std::string operator/(const std::string& name) const { return directory + "/" + name; }
};

const Names all_files = {"snapshot.json", "state", "memory", "memory.1",
                         "memory.2",      "disk",  "disk.1", "disk.2"};

}  // namespace

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
  ShellPool shells(-1, {}, 0);
  CHECK(opened->clone(shells, {}, {}).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("no byte of the metadata or the state may change") {
  const Published published;
  for (const std::string name : {"snapshot.json", "state"}) {
    const std::string path = published / name;
    const std::string intact = text_of(path);
    for (std::size_t position = 0; position < intact.size(); ++position)
      for (int bit = 0; bit < 8; ++bit) {
        std::string damaged = intact;
        damaged[position] = static_cast<char>(damaged[position] ^ (1 << bit));
        overwrite(path, damaged);
        const Error error = error_of_opening(published.place, published.directory);
        if (error.code != ErrorCode::corrupt && error.code != ErrorCode::conflict)
          FAIL(name << " byte " << position << " bit " << bit << ": " << error.describe());
        if (error.object != path) FAIL(error.describe());
      }
    overwrite(path, intact);
    REQUIRE(open_files(published.directory, published.place.scratch).ok());
  }
}

TEST_CASE("a flipped bit in a layer is found when it is opened, in the base when it is verified") {
  const Published published;
  const auto flip = [&](const std::string& name, std::uint64_t offset) {
    Bytes content = load(published / name);
    content[offset] ^= std::byte{1};
    store(published / name, content);
  };
  const auto [name, offset] = GENERATE(table<std::string, std::uint64_t>({
      {"memory.1", disk::Layer::data_offset + 21 * page},
      {"memory.2", disk::Layer::data_offset + 60 * page + 4095},
      {"disk.1", disk::Layer::data_offset + page + 5},
      {"disk.2", 8},
  }));
  flip(name, offset);
  const Error error = error_of_opening(published.place, published.directory);
  CHECK(error.code == ErrorCode::corrupt);
  CHECK(error.object == published / name);
  flip(name, offset);
  REQUIRE(open_files(published.directory, published.place.scratch).ok());

  flip("memory", 150 * page + 7);
  const SnapshotPtr opened = unwrap(open(published.directory, published.place.scratch));
  for (int attempt = 0; attempt < 2; ++attempt) {  // what was found once is not forgotten
    const auto verified = opened->verify();
    REQUIRE_FALSE(verified.ok());
    CHECK(verified.error().code == ErrorCode::corrupt);
    CHECK(verified.error().object == "memory");
  }
}

TEST_CASE("another format version is a conflict that says what to do") {
  const Published published;
  std::string json = text_of(published / "snapshot.json");
  json.replace(json.find("\"format_version\":2"), 18, "\"format_version\":1");
  overwrite(published / "snapshot.json", json);
  const Error error = error_of_opening(published.place, published.directory);
  CHECK(error.code == ErrorCode::conflict);
  CHECK(error.describe().find("format 1") != std::string::npos);
}

TEST_CASE("metadata of the right checksum but impossible values is refused") {
  const Metadata good{{1, 64u << 20, 1u << 20}, 100, 1, 2, 3, 4};
  const auto parsed = parse_metadata(to_json(good));
  REQUIRE(parsed.ok());
  CHECK(to_json(*parsed) == to_json(good));
  const auto refused = [&](auto change) {
    Metadata bad = good;
    change(bad);
    const auto read = parse_metadata(to_json(bad));
    return !read.ok() && read.error().code == ErrorCode::corrupt;
  };
  CHECK(refused([](Metadata& m) { m.shape.vcpu_count = 0; }));
  CHECK(refused([](Metadata& m) { m.shape.vcpu_count = 33; }));
  CHECK(refused([](Metadata& m) { m.shape.memory_bytes = 4097; }));
  CHECK(refused([](Metadata& m) { m.shape.memory_bytes = 0; }));
  CHECK(refused([](Metadata& m) { m.shape.disk_bytes = 100; }));
  CHECK(refused([](Metadata& m) { m.shape.disk_bytes = 0; }));
  CHECK(refused([](Metadata& m) { m.state_bytes = 1ull << 40; }));
  CHECK(refused([](Metadata& m) { m.memory_layers = most_layers + 1; }));
  CHECK(refused([](Metadata& m) { m.disk_layers = most_layers + 1; }));
  CHECK(refused([](Metadata& m) { m.state_bytes = 0; }));
  const Metadata disk_alone{good.shape, 0, 0, 0, 0, 4};
  CHECK(parse_metadata(to_json(disk_alone)).ok());
  for (const char* text : {"", "{", "[]", "1", "{}", "{\"format_version\":\"2\"}", "{\"format_version\":2}",
                           "{\"format_version\":2.0}", "{\"format_version\":-1}"})
    CHECK(parse_metadata(text).error().code == ErrorCode::corrupt);
}

TEST_CASE("a missing, cut, grown or replaced file is refused by name") {
  const Published published;
  const std::string name = GENERATE(from_range(std::vector(all_files.begin(), all_files.end())));
  const std::string path = published / name, kept = published.place / "kept";
  const auto refusal = [&] {
    const Error error = error_of_opening(published.place, published.directory);
    return error.code == ErrorCode::corrupt && error.object == path && !error.message.empty();
  };
  INFO(name);
  REQUIRE(::rename(path.c_str(), kept.c_str()) == 0);
  CHECK(refusal());
  fs::create_symlink(kept, path);
  CHECK(refusal());
  fs::remove(path);
  fs::create_directory(path);
  CHECK(refusal());
  fs::remove(path);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(refusal());
  fs::remove(path);

  Bytes content = load(kept);
  const std::size_t size = content.size();
  store(path, content);
  REQUIRE(open_files(published.directory, published.place.scratch).ok());
  content.resize(size + page + disk_bytes);
  store(path, content);
  CHECK(refusal());
  if (name == "disk") return;  // a short disk image is an ordinary one: the rest of the disk reads as zeros
  content.resize(size - 1);
  store(path, content);
  CHECK(refusal());
  store(path, {});
  CHECK(refusal());
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
