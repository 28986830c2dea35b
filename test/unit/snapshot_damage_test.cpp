// Snapshots whose files were changed: refused by name, with the reason.
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/metadata.hpp"
#include "snapshot_files.hpp"

using namespace cube;
using namespace cube::snapshot;
using namespace cube::snapshot::test;
using cube::disk::test::load;
using cube::disk::test::store;

namespace {

/// Replaces a file's content although it is read-only and shared; also when the test does not run as root.
void overwrite(const std::string& path, std::string_view content) {
  store(path, copy_of(std::as_bytes(std::span(content))));
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

TEST_CASE(
    "a flipped bit in what a layer says is found when it is opened, in what it holds when it is verified") {
  const Published published;
  const auto flip = [&](const std::string& name, std::uint64_t offset) {
    Bytes content = load(published / name);
    content[offset] ^= std::byte{1};
    store(published / name, content);
  };
  const auto [name, offset, when] = GENERATE(table<std::string, std::uint64_t, std::string>({
      {"memory.1", 8, "opened"},
      {"disk.2", 8, "opened"},
      {"memory.1", disk::Layer::data_offset + 21 * page, "verified"},
      {"memory.2", disk::Layer::data_offset + 60 * page + 4095, "verified"},
      {"disk.1", disk::Layer::data_offset + page + 5, "verified"},
      {"memory", 150 * page + 7, "verified"},
  }));
  INFO(name);
  flip(name, offset);
  if (when == "opened") {
    const Error error = error_of_opening(published.place, published.directory);
    CHECK(error.code == ErrorCode::corrupt);
    CHECK(error.object == published / name);
  } else {
    const SnapshotPtr opened = unwrap(open(published.directory, published.place.scratch));
    CHECK(merge(opened).error().code == ErrorCode::corrupt);  // damage gets no new checksum
    for (int attempt = 0; attempt < 2; ++attempt) {           // what was found once is not forgotten
      const auto verified = opened->verify();
      REQUIRE_FALSE(verified.ok());
      CHECK(verified.error().code == ErrorCode::corrupt);
      CHECK(verified.error().object == name);
    }
  }
  flip(name, offset);
  CHECK(unwrap(open(published.directory, published.place.scratch))->verify().ok());
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
