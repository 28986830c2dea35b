#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <cube/snapshot.hpp>
#include <filesystem>
#include <functional>
#include <random>
#include <set>

#include "snapshot/files.hpp"
#include "snapshot/memory_image.hpp"
#include "snapshot/metadata.hpp"
#include "snapshot/populated_pages.hpp"
#include "snapshot/publication.hpp"

using namespace cube;
using namespace cube::snapshot;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t page = 4096;

struct TemporaryDirectory {
  std::string path;
  TemporaryDirectory() {
    char name[] = "/tmp/cube-snapshot-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(path)) found.insert(entry.path().filename());
    return found;
  }
};

/// A mapping made as guest memory is.
class Mapping {
 public:
  explicit Mapping(std::size_t size, int fd = -1)
      : bytes_(static_cast<std::byte*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS | MAP_NORESERVE : 0), fd,
                                              0)),
               size) {
    REQUIRE(bytes_.data() != MAP_FAILED);
    ::madvise(bytes_.data(), size, MADV_NOHUGEPAGE);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(bytes_.data(), bytes_.size()); }
  std::span<std::byte> bytes() const { return bytes_; }
  void fill_page(std::size_t index, unsigned seed) const {
    std::mt19937 random(seed);
    for (auto& byte : bytes_.subspan(index * page, page)) byte = static_cast<std::byte>(random());
  }

 private:
  std::span<std::byte> bytes_;
};

void store(const std::string& path, std::string_view content) {
  auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  REQUIRE(file.ok());
  REQUIRE(write_exactly(file->get(), std::as_bytes(std::span(content)), 0).ok());
}

std::string load(const std::string& path) { return read_file(path, 64u << 20).value(); }

/// Replaces a file's content although it is read-only; also when the test does not run as root.
void overwrite(const std::string& path, std::string_view content) {
  REQUIRE(::unlink(path.c_str()) == 0);
  store(path, content);
}

/// Bytes that are not in holes.
std::uint64_t data_bytes(const std::string& path) {
  const auto file = open_file(path, O_RDONLY);
  REQUIRE(file.ok());
  std::uint64_t bytes = 0;
  for (off_t hole = 0;;) {
    const off_t data = ::lseek(file->get(), hole, SEEK_DATA);
    if (data < 0) return bytes;
    hole = ::lseek(file->get(), data, SEEK_HOLE);
    bytes += static_cast<std::uint64_t>(hole - data);
  }
}

std::uint64_t allocated_bytes(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

int in_child(const std::function<int()>& child) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) ::_exit(child());
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// What a snapshot is written from: two regions of memory, a state, a disk image.
struct Source {
  TemporaryDirectory directory;
  Mapping low{600 * page};
  Mapping high{40 * page};
  Shape shape{2, 640 * page, 64 * 1024};
  vmm::MachineState state{std::string("state\0of a machine", 18)};
  std::string disk = directory / "disk.img";
  std::string target = directory / "snapshot";

  Source() {
    store(disk, std::string(32 * 1024, 'd'));
    for (const std::size_t index : {0u, 1u, 299u, 599u}) low.fill_page(index, static_cast<unsigned>(index));
    for (std::size_t index = 0; index < 40; ++index)
      high.fill_page(index, 1000 + static_cast<unsigned>(index));
  }
  std::vector<std::span<const std::byte>> memory() const { return {low.bytes(), high.bytes()}; }
  Result<void> write() const { return write_files(target, shape, state, memory(), disk); }
};

Error error_of_opening(const std::string& directory) {
  auto files = open_files(directory);
  return files ? Error{ErrorCode::internal, "opened", 0, ""} : std::move(files).error();
}

}  // namespace

TEST_CASE("a written snapshot opens with what was written") {
  const Source source;
  if (const auto written = source.write(); !written) FAIL(written.error().describe());
  CHECK(source.directory.names() == std::set<std::string>{"disk.img", "snapshot"});
  const auto files = open_files(source.target);
  if (!files) FAIL(files.error().describe());
  CHECK(files->shape.vcpu_count == 2);
  CHECK(files->shape.memory_bytes == 640 * page);
  CHECK(files->shape.disk_bytes == 64 * 1024);
  CHECK(files->state.bytes == source.state.bytes);

  const Mapping clone(640 * page, files->memory.get());
  CHECK(same(clone.bytes().first(600 * page), source.low.bytes()));
  CHECK(same(clone.bytes().subspan(600 * page), source.high.bytes()));
  CHECK(fs::hard_link_count(source.disk) == 2);
  for (const char* name : {"memory", "state", "snapshot.json"})
    CHECK((fs::status(source.target + "/" + name).permissions() & fs::perms::all) == fs::perms::owner_read);
}

TEST_CASE("pages of zeros are holes, whether never written or written with zeros") {
  const Source source;
  std::memset(source.low.bytes().data() + 100 * page, 0, 100 * page);
  REQUIRE(source.write().ok());
  CHECK(fs::file_size(source.target + "/memory") == 640 * page);
  CHECK(allocated_bytes(source.target + "/memory") < 100 * page);
  CHECK(data_bytes(source.target + "/memory") == 44 * page);
}

TEST_CASE("pages nothing was ever stored in are not touched by writing") {
  const Source source;
  REQUIRE(source.write().ok());
  const auto populated = PopulatedPages::examine().find(source.low.bytes());
  CHECK(std::count(populated.begin(), populated.end(), true) == 4);
  CHECK(populated[299]);
  CHECK_FALSE(populated[298]);
}

TEST_CASE("memory given back counts as zeros again") {
  const Source source;
  REQUIRE(::madvise(source.low.bytes().data(), page, MADV_DONTNEED) == 0);
  REQUIRE(source.write().ok());
  CHECK(data_bytes(source.target + "/memory") == 43 * page);
}

TEST_CASE("a clone's untouched pages are written from its image") {
  const Source source;
  REQUIRE(source.write().ok());
  const auto first = open_files(source.target);
  REQUIRE(first.ok());
  const Mapping clone(640 * page, first->memory.get());
  clone.fill_page(5, 5);
  std::memset(clone.bytes().data() + page, 0, page);

  const std::string second = source.directory / "second";
  const std::vector<std::span<const std::byte>> memory = {clone.bytes()};
  REQUIRE(write_files(second, source.shape, source.state, memory, source.disk).ok());
  const auto files = open_files(second);
  REQUIRE(files.ok());
  const Mapping copy(640 * page, files->memory.get());
  CHECK(same(copy.bytes(), clone.bytes()));
  CHECK(data_bytes(second + "/memory") == 44 * page);
  const Mapping unchanged(640 * page, first->memory.get());
  CHECK(same(unchanged.bytes().first(600 * page), source.low.bytes()));
}

TEST_CASE("an opened snapshot outlives its directory") {
  const Source source;
  REQUIRE(source.write().ok());
  const auto files = open_files(source.target);
  REQUIRE(files.ok());
  REQUIRE(remove_directory(source.target).ok());
  CHECK(source.directory.names() == std::set<std::string>{"disk.img"});
  CHECK(load(source.disk) == std::string(32 * 1024, 'd'));
  const Mapping clone(640 * page, files->memory.get());
  CHECK(same(clone.bytes().first(600 * page), source.low.bytes()));
  CHECK(remove_directory(source.target).error().code == ErrorCode::not_found);
  CHECK(error_of_opening(source.target).code == ErrorCode::not_found);
}

TEST_CASE("no byte of the metadata or the state may change") {
  const Source source;
  REQUIRE(source.write().ok());
  for (const std::string name : {"snapshot.json", "state"}) {
    const std::string path = source.target + "/" + name;
    const std::string intact = load(path);
    for (std::size_t position = 0; position < intact.size(); ++position)
      for (int bit = 0; bit < 8; ++bit) {
        std::string damaged = intact;
        damaged[position] = static_cast<char>(damaged[position] ^ (1 << bit));
        overwrite(path, damaged);
        const Error error = error_of_opening(source.target);
        if (error.code != ErrorCode::corrupt && error.code != ErrorCode::conflict)
          FAIL(name << " byte " << position << " bit " << bit << ": " << error.describe());
        if (error.object != path) FAIL(error.describe());
      }
    overwrite(path, intact);
    REQUIRE(open_files(source.target).ok());
  }
}

TEST_CASE("another format version is a conflict that says what to do") {
  const Source source;
  REQUIRE(source.write().ok());
  std::string json = load(source.target + "/snapshot.json");
  json.replace(json.find("\"format_version\":1"), 18, "\"format_version\":2");
  overwrite(source.target + "/snapshot.json", json);
  const Error error = error_of_opening(source.target);
  CHECK(error.code == ErrorCode::conflict);
  CHECK(error.describe().find("format 2") != std::string::npos);
}

TEST_CASE("metadata of the right checksum but impossible values is refused") {
  const Metadata good{{1, 64u << 20, 1u << 20}, 100, 0};
  REQUIRE(parse_metadata(to_json(good)).ok());
  const auto refused = [&](auto change) {
    Metadata bad = good;
    change(bad);
    const auto parsed = parse_metadata(to_json(bad));
    return !parsed.ok() && parsed.error().code == ErrorCode::corrupt;
  };
  CHECK(refused([](Metadata& m) { m.shape.vcpu_count = 0; }));
  CHECK(refused([](Metadata& m) { m.shape.vcpu_count = 33; }));
  CHECK(refused([](Metadata& m) { m.shape.memory_bytes = 4097; }));
  CHECK(refused([](Metadata& m) { m.shape.memory_bytes = 0; }));
  CHECK(refused([](Metadata& m) { m.shape.disk_bytes = 100; }));
  CHECK(refused([](Metadata& m) { m.state_bytes = 0; }));
  CHECK(refused([](Metadata& m) { m.state_bytes = 1ull << 40; }));
  for (const char* text : {"", "{", "[]", "1", "{}", "{\"format_version\":\"1\"}", "{\"format_version\":1}",
                           "{\"format_version\":1.0}", "{\"format_version\":-1}"})
    CHECK(parse_metadata(text).error().code == ErrorCode::corrupt);
}

TEST_CASE("a missing, cut, grown or replaced file is refused by name") {
  const Source source;
  REQUIRE(source.write().ok());
  const std::string name = GENERATE("snapshot.json", "state", "memory", "disk");
  const std::string path = source.target + "/" + name;
  const auto refusal = [&] {
    const Error error = error_of_opening(source.target);
    return error.code == ErrorCode::corrupt && error.object == path && !error.message.empty();
  };
  const std::uint64_t size = fs::file_size(path);

  REQUIRE(::rename(path.c_str(), (source.directory / "kept").c_str()) == 0);
  CHECK(refusal());
  fs::create_symlink(source.directory / "kept", path);
  CHECK(refusal());
  fs::remove(path);
  fs::create_directory(path);
  CHECK(refusal());
  fs::remove(path);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(refusal());
  fs::remove(path);
  REQUIRE(::rename((source.directory / "kept").c_str(), path.c_str()) == 0);
  REQUIRE(open_files(source.target).ok());

  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  fs::resize_file(path, 65 * 1024 + 640 * page);
  CHECK(refusal());
  if (name != "disk") {  // a short disk image is an ordinary one: the rest of the disk reads as zeros
    fs::resize_file(path, size - 1);
    CHECK(refusal());
    fs::resize_file(path, 0);
    CHECK(refusal());
  }
}

TEST_CASE("a failure in the middle leaves nothing behind") {
  Source source;
  std::set<std::string> before = source.directory.names();
  ErrorCode expected = ErrorCode::internal;
  SECTION("no disk image") {
    source.disk = source.directory / "missing";
    expected = ErrorCode::not_found;
  }
  SECTION("a disk image that is a symbolic link") {
    fs::create_symlink(source.disk, source.directory / "link");
    source.disk = source.directory / "link";
    before.insert("link");
    expected = ErrorCode::invalid_argument;
  }
  SECTION("a disk image larger than the disk") {
    source.shape.disk_bytes = 16 * 1024;
    expected = ErrorCode::invalid_argument;
  }
  SECTION("a disk image on another file system") {
    source.disk = "/proc/version";
    expected = ErrorCode::invalid_argument;
  }
  SECTION("memory of another size than the shape says") {
    source.shape.memory_bytes += page;
    expected = ErrorCode::invalid_argument;
  }
  SECTION("a target that exists") {
    fs::create_directory(source.target);
    before.insert("snapshot");
    expected = ErrorCode::already_exists;
  }
  SECTION("a target that appears meanwhile") {
    auto pending = PendingDirectory::create(source.target);
    REQUIRE(pending.ok());
    fs::create_directory(source.target);
    before.insert("snapshot");
    CHECK(pending->publish().error().code == ErrorCode::already_exists);
    expected = ErrorCode::already_exists;
  }
  const auto written = source.write();
  REQUIRE_FALSE(written.ok());
  CHECK(written.error().code == expected);
  CHECK_FALSE(written.error().message.empty());
  CHECK(source.directory.names() == before);
}

TEST_CASE("a host that cannot store all of memory gets an error and no half snapshot") {
  const Source source;
  CHECK(in_child([&] {
          ::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit{300 * page, 300 * page};  // inside the second of the image's runs of data
          if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
          const auto written = source.write();
          if (written.ok() || written.error().os_errno != EFBIG || written.error().object != "memory")
            return 2;
          return source.directory.names() == std::set<std::string>{"disk.img"} ? 0 : 3;
        }) == 0);
}

TEST_CASE("left-overs of a crash are removed and nothing else") {
  TemporaryDirectory directory;
  const std::string random = "0123456789abcdef";
  const std::set<std::string> kept = {".tmp-",
                                      ".tmp-short",
                                      ".tmp-0123456789ABCDEF",
                                      ".del-" + random + "0",
                                      "a.tmp-" + random,
                                      ".new-" + random,
                                      "snapshot",
                                      "outside"};
  for (const auto& name : kept) fs::create_directory(directory / name);
  store(directory / "outside/file", "stays");
  for (const std::string& name : {".tmp-" + random, ".del-" + random}) {
    fs::create_directories(directory / (name + "/deep/deeper"));
    store(directory / (name + "/deep/file"), "x");
    fs::create_directory_symlink(directory / "outside", directory / (name + "/deep/link"));
  }
  // Not directories, so not ours.
  store(directory / ".tmp-aaaaaaaaaaaaaaaa", "file");
  fs::create_directory_symlink(directory / "outside", directory / ".del-aaaaaaaaaaaaaaaa");

  REQUIRE(remove_temporary_directories(directory.path).ok());
  std::set<std::string> expected = kept;
  expected.insert({".tmp-aaaaaaaaaaaaaaaa", ".del-aaaaaaaaaaaaaaaa"});
  CHECK(directory.names() == expected);
  CHECK(load(directory / "outside/file") == "stays");
  CHECK(remove_temporary_directories(directory / "missing").error().code == ErrorCode::not_found);
}

TEST_CASE("what a killed writer leaves is a left-over, never a snapshot") {
  const Source source;
  REQUIRE(in_child([&] {
            auto pending = PendingDirectory::create(source.target);
            if (!pending) return 1;
            const Fd file(::openat(pending->fd(), "memory", O_WRONLY | O_CREAT, 0400));
            ::_exit(file ? 0 : 2);
          }) == 0);
  CHECK(error_of_opening(source.target).code == ErrorCode::not_found);
  CHECK(source.directory.names().size() == 2);
  REQUIRE(remove_temporary_directories(source.directory.path).ok());
  CHECK(source.directory.names() == std::set<std::string>{"disk.img"});
  CHECK(source.write().ok());
}

TEST_CASE("only a directory is removed as a snapshot") {
  TemporaryDirectory directory;
  store(directory / "file", "stays");
  fs::create_directory(directory / "real");
  fs::create_directory_symlink(directory / "real", directory / "link");
  CHECK(remove_directory(directory / "file").error().code == ErrorCode::invalid_argument);
  CHECK(remove_directory(directory / "link").error().code == ErrorCode::invalid_argument);
  CHECK(remove_directory(directory / "missing").error().code == ErrorCode::not_found);
  for (const char* path : {"", "/", ".", "..", "a/.."})
    CHECK(remove_directory(path).error().code == ErrorCode::invalid_argument);
  CHECK(directory.names() == std::set<std::string>{"file", "real", "link"});
  CHECK(remove_directory(directory / "real/").ok());
}
