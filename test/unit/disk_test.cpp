#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <cube/disk.hpp>
#include <filesystem>
#include <functional>
#include <iostream>
#include <random>

#include "disk/allocation_bitmap.hpp"
#include "disk/unnamed_file.hpp"
#include "disk/vectored_io.hpp"

using namespace cube;
using namespace cube::disk;
using Bytes = std::vector<std::byte>;

namespace {

struct TemporaryDirectory {
  std::string path;
  TemporaryDirectory() {
    char name[] = "/tmp/cube-disk-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::ptrdiff_t entries() const { return std::distance(std::filesystem::directory_iterator(path), {}); }
};

Bytes pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void store(const std::string& path, const Bytes& bytes) {
  ::unlink(path.c_str());  // ext4 writes back a file at once that is truncated and filled again
  auto file = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
  REQUIRE(file.ok());
  REQUIRE(write_exactly(file->get(), bytes, 0).ok());
}

Bytes load(const std::string& path) {
  Bytes bytes(std::filesystem::file_size(path));
  auto file = open_file(path, O_RDONLY);
  REQUIRE(file.ok());
  REQUIRE(read_exactly(file->get(), bytes, 0).ok());
  return bytes;
}

Fd open_for_reading(const std::string& path) {
  auto file = open_file(path, O_RDONLY);
  REQUIRE(file.ok());
  return std::move(file).value();
}

std::unique_ptr<CowDisk> open_disk(const std::string& base, const std::vector<std::string>& layers,
                                   std::uint64_t capacity, const std::string& directory) {
  std::vector<Fd> files;
  for (const auto& layer : layers) files.push_back(open_for_reading(layer));
  auto opened = CowDisk::open(open_for_reading(base), std::move(files), capacity, directory);
  if (!opened) FAIL(opened.error().describe());
  return std::move(opened).value();
}

Result<void> write_bytes(vmm::BlockBackend& disk, std::uint64_t offset, const Bytes& bytes) {
  const iovec buffer{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return disk.write(offset, {&buffer, 1});
}

Bytes read_bytes(vmm::BlockBackend& disk, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, std::byte{0xee});
  const iovec buffer{bytes.data(), bytes.size()};
  const auto done = disk.read(offset, {&buffer, 1});
  if (!done.ok()) FAIL(done.error().describe());
  return bytes;
}

/// Cuts `bytes` into buffers of odd lengths, some of them empty, as a guest may.
std::vector<iovec> scatter(Bytes& bytes, std::mt19937& random) {
  std::vector<iovec> buffers;
  for (std::size_t used = 0; used < bytes.size();) {
    const std::size_t count =
        std::min<std::size_t>(random() % 3 == 0 ? random() % 100 : random() % 9000, bytes.size() - used);
    buffers.push_back({bytes.data() + used, count});
    used += count;
  }
  buffers.push_back({bytes.data() + bytes.size(), 0});
  return buffers;
}

/// Runs `child` in a process of its own, for what cannot be undone; its exit status.
int in_child(const std::function<int()>& child) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) ::_exit(child());
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("an allocation bitmap counts and finds what was inserted") {
  AllocationBitmap bitmap;
  CHECK(bitmap.end() == 0);
  bitmap.insert(5, 5);
  bitmap.insert(5, 7);
  bitmap.insert(AllocationBitmap::clusters_per_chunk - 1, AllocationBitmap::clusters_per_chunk);
  CHECK(bitmap.count() == 5);
  CHECK(bitmap.end() == AllocationBitmap::clusters_per_chunk + 1);
  CHECK_FALSE(bitmap.contains(4));
  CHECK(bitmap.contains(7));
  CHECK_FALSE(bitmap.contains(8));
  CHECK_FALSE(bitmap.contains(1ull << 40));
}

TEST_CASE("a disk behaves as an array of bytes through writes, layers, freezes and re-opening") {
  const unsigned seed = GENERATE(1u, 2u);
  std::mt19937 random(seed);
  TemporaryDirectory directory;
  const Bytes base = pattern(301 * 512 + 100, seed);    // ends inside a sector inside a cluster
  const std::uint64_t capacity = 200 * 4096 + 3 * 512;  // ends inside a cluster
  store(directory / "base", base);
  Bytes model = base;
  model.resize(capacity);
  std::vector<std::string> layers;
  auto disk = open_disk(directory / "base", layers, capacity, directory.path);

  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t sector = random() % (capacity / 512);
    const std::uint64_t count =
        1 + random() % std::min<std::uint64_t>(capacity / 512 - sector, 1 + random() % 90);
    Bytes bytes(count * 512);
    if (random() % 2 == 0) {
      for (auto& byte : bytes) byte = static_cast<std::byte>(random());
      REQUIRE(disk->write(sector * 512, scatter(bytes, random)).ok());
      std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(sector * 512));
    } else {
      REQUIRE(disk->read(sector * 512, scatter(bytes, random)).ok());
      REQUIRE(std::memcmp(bytes.data(), model.data() + sector * 512, bytes.size()) == 0);
    }
    if (step % 700 == 699) {
      layers.push_back(directory / ("layer" + std::to_string(layers.size())));
      REQUIRE(disk->freeze(layers.back()).ok());
    }
    if (step % 1500 == 1499) {
      layers.push_back(directory / ("layer" + std::to_string(layers.size())));
      REQUIRE(disk->freeze(layers.back()).ok());
      disk = open_disk(directory / "base", layers, capacity, directory.path);
    }
  }
  CHECK(read_bytes(*disk, 0, capacity) == model);
  CHECK(load(directory / "base") == base);
  CHECK(directory.entries() == static_cast<std::ptrdiff_t>(layers.size() + 1));
}

TEST_CASE("two clones of one base do not see each other's writes") {
  TemporaryDirectory directory;
  const Bytes base = pattern(16 * 4096, 7);
  store(directory / "base", base);
  auto one = open_disk(directory / "base", {}, base.size(), directory.path);
  auto two = open_disk(directory / "base", {}, base.size(), directory.path);
  REQUIRE(write_bytes(*one, 512, Bytes(512, std::byte{1})).ok());
  REQUIRE(write_bytes(*two, 4096, Bytes(4096, std::byte{2})).ok());
  CHECK(read_bytes(*one, 512, 512) == Bytes(512, std::byte{1}));
  CHECK(read_bytes(*one, 4096, 4096) == Bytes(base.begin() + 4096, base.begin() + 8192));
  CHECK(read_bytes(*two, 0, 4096) == Bytes(base.begin(), base.begin() + 4096));
  CHECK(one->dirty_bytes() == 4096);
  CHECK(load(directory / "base") == base);
}

TEST_CASE("the scratch of a disk has no name and goes with it") {
  TemporaryDirectory directory;
  store(directory / "base", pattern(8192, 1));
  auto disk = open_disk(directory / "base", {}, 8192, directory.path);
  REQUIRE(write_bytes(*disk, 0, pattern(4096, 2)).ok());
  CHECK(directory.entries() == 1);
}

TEST_CASE("scratch without O_TMPFILE has no name either, and keeping it is refused with the reason") {
  TemporaryDirectory directory;
  const auto file = open_unlinked_file(directory.path);
  REQUIRE(file.ok());
  REQUIRE(write_exactly(file->get(), pattern(4096, 1), 0).ok());
  CHECK(directory.entries() == 0);
  const auto linked = link_unnamed_file(file->get(), directory / "layer");
  REQUIRE_FALSE(linked.ok());
  CHECK(linked.error().code == ErrorCode::unimplemented);
  CHECK(linked.error().describe().find("O_TMPFILE") != std::string::npos);
}

TEST_CASE("a 64 GiB disk holds on disk and in memory only what was written") {
  TemporaryDirectory directory;
  store(directory / "base", pattern(4096, 1));
  const std::uint64_t capacity = 64ull << 30;
  auto disk = open_disk(directory / "base", {}, capacity, directory.path);
  CHECK(read_bytes(*disk, capacity - 4096, 4096) == Bytes(4096));
  const Bytes end = pattern(512, 2);
  REQUIRE(write_bytes(*disk, capacity - 512, end).ok());
  REQUIRE(write_bytes(*disk, 20ull << 30, end).ok());
  REQUIRE(disk->freeze(directory / "layer").ok());
  struct stat status {};
  REQUIRE(::stat((directory / "layer").c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 128 * 1024);
  auto again = open_disk(directory / "base", {directory / "layer"}, capacity, directory.path);
  CHECK(read_bytes(*again, capacity - 512, 512) == end);
  CHECK(read_bytes(*again, 20ull << 30, 512) == end);
  CHECK(read_bytes(*again, 10ull << 30, 512) == Bytes(512));
}

TEST_CASE("freezing without writes makes an empty layer") {
  TemporaryDirectory directory;
  const Bytes base = pattern(8192, 3);
  store(directory / "base", base);
  auto disk = open_disk(directory / "base", {}, 8192, directory.path);
  REQUIRE(disk->freeze(directory / "empty").ok());
  auto again = open_disk(directory / "base", {directory / "empty"}, 8192, directory.path);
  CHECK(read_bytes(*again, 0, 8192) == base);
}

TEST_CASE("each freeze keeps the disk as it was then") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(8192));
  auto disk = open_disk(directory / "base", {}, 8192, directory.path);
  const Bytes one(512, std::byte{1}), two(512, std::byte{2}), three(512, std::byte{3});
  REQUIRE(write_bytes(*disk, 512, one).ok());
  REQUIRE(disk->freeze(directory / "first").ok());
  CHECK(disk->dirty_bytes() == 0);
  REQUIRE(write_bytes(*disk, 1024, two).ok());
  REQUIRE(disk->freeze(directory / "second").ok());
  REQUIRE(write_bytes(*disk, 512, three).ok());

  auto first = open_disk(directory / "base", {directory / "first"}, 8192, directory.path);
  CHECK(read_bytes(*first, 512, 512) == one);
  CHECK(read_bytes(*first, 1024, 512) == Bytes(512));
  auto second =
      open_disk(directory / "base", {directory / "first", directory / "second"}, 8192, directory.path);
  CHECK(read_bytes(*second, 512, 512) == one);
  CHECK(read_bytes(*second, 1024, 512) == two);
  CHECK(read_bytes(*disk, 512, 512) == three);
}

TEST_CASE("a freeze that cannot have its name changes nothing and may be repeated") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(8192));
  store(directory / "taken", Bytes(1));
  auto disk = open_disk(directory / "base", {}, 8192, directory.path);
  const Bytes bytes = pattern(512, 5);
  REQUIRE(write_bytes(*disk, 512, bytes).ok());
  const auto taken = disk->freeze(directory / "taken");
  REQUIRE_FALSE(taken.ok());
  CHECK(taken.error().code == ErrorCode::already_exists);
  CHECK(disk->freeze(directory / "missing/layer").error().code == ErrorCode::not_found);
  CHECK(load(directory / "taken") == Bytes(1));
  CHECK(disk->dirty_bytes() == 4096);
  REQUIRE(write_bytes(*disk, 4096, bytes).ok());  // lands where the first attempt put its records
  REQUIRE(disk->freeze(directory / "layer").ok());
  auto again = open_disk(directory / "base", {directory / "layer"}, 8192, directory.path);
  CHECK(read_bytes(*again, 512, 512) == bytes);
  CHECK(read_bytes(*again, 4096, 512) == bytes);
}

TEST_CASE("requests that are not whole sectors inside the disk are refused") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(8192));
  auto disk = open_disk(directory / "base", {}, 8192, directory.path);
  Bytes bytes(1024);
  const auto refused = [&](std::uint64_t offset, std::size_t length) {
    const iovec buffer{bytes.data(), length};
    const auto written = disk->write(offset, {&buffer, 1});
    const auto was_read = disk->read(offset, {&buffer, 1});
    return !written.ok() && written.error().code == ErrorCode::invalid_argument && !was_read.ok() &&
           was_read.error().code == ErrorCode::invalid_argument;
  };
  CHECK(refused(1, 512));
  CHECK(refused(0, 511));
  CHECK(refused(8192, 512));
  CHECK(refused(7680, 1024));
  CHECK(refused(~std::uint64_t{511}, 512));
  CHECK(refused(512, ~std::size_t{511}));
  CHECK(disk->read(8192, {}).ok());
  CHECK(disk->dirty_bytes() == 0);

  const auto open_with = [&](std::uint64_t capacity) {
    return CowDisk::open(open_for_reading(directory / "base"), {}, capacity, directory.path);
  };
  CHECK(open_with(4096).error().code == ErrorCode::invalid_argument);
  CHECK(open_with(8193).error().code == ErrorCode::invalid_argument);
  CHECK(open_with(1ull << 60).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("a write the host cannot store fails and leaves the old content") {
  TemporaryDirectory directory;
  const Bytes base = pattern(64 * 4096, 9);
  store(directory / "base", base);
  CHECK(in_child([&] {
          ::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit{20 * 4096, 20 * 4096};
          if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
          auto disk = open_disk(directory / "base", {}, base.size(), directory.path);
          if (!write_bytes(*disk, 4 * 4096, Bytes(4096, std::byte{1})).ok()) return 2;
          // Clusters 10 to 29 of which 10 to 18 still fit: a short write, then the error.
          const auto failed = write_bytes(*disk, 10 * 4096 + 512, Bytes(20 * 4096, std::byte{2}));
          if (failed.ok() || failed.error().os_errno != EFBIG) return 3;
          if (disk->dirty_bytes() != 4096) return 4;
          Bytes expected = base;
          std::fill_n(expected.begin() + 4 * 4096, 4096, std::byte{1});
          if (read_bytes(*disk, 0, base.size()) != expected) return 5;
          // Freezing needs room behind the clusters; there is enough for one record only without cluster 18.
          if (!write_bytes(*disk, 18 * 4096, Bytes(512, std::byte{3})).ok()) return 6;
          if (disk->freeze(directory / "layer").ok()) return 7;
          if (std::filesystem::exists(directory / "layer")) return 8;
          std::fill_n(expected.begin() + 18 * 4096, 512, std::byte{3});
          return read_bytes(*disk, 0, base.size()) == expected ? 0 : 9;
        }) == 0);
}

TEST_CASE("a full file system is resource_exhausted") {
  TemporaryDirectory directory;
  const Bytes base = pattern(256 * 4096, 9);
  store(directory / "base", base);
  const std::string scratch = directory / "scratch";
  std::filesystem::create_directory(scratch);
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", scratch.c_str(), "tmpfs", 0, "size=64k") != 0)
      return 77;
    auto disk = open_disk(directory / "base", {}, base.size(), scratch);
    std::uint64_t offset = 0;
    auto written = Result<void>();
    for (; offset < base.size(); offset += 4096)
      if (written = write_bytes(*disk, offset, Bytes(4096, std::byte{1})); !written.ok()) break;
    if (written.ok() || written.error().code != ErrorCode::resource_exhausted) return 1;
    if (disk->dirty_bytes() != offset) return 2;
    Bytes expected = base;
    std::fill_n(expected.begin(), offset, std::byte{1});
    if (read_bytes(*disk, 0, base.size()) != expected) return 3;
    const auto frozen = disk->freeze(scratch + "/layer");
    return !frozen.ok() && frozen.error().code == ErrorCode::resource_exhausted ? 0 : 4;
  });
  if (status == 77)
    std::cerr << "skipped: a private mount of a small tmpfs needs CAP_SYS_ADMIN\n";
  else
    CHECK(status == 0);
}

TEST_CASE("a damaged layer is refused, whichever byte it is") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(64 * 4096));
  auto disk = open_disk(directory / "base", {}, 64 * 4096, directory.path);
  REQUIRE(write_bytes(*disk, 3 * 4096, pattern(8192, 4)).ok());
  REQUIRE(disk->freeze(directory / "layer").ok());
  const Bytes intact = load(directory / "layer");
  const std::size_t records = 4096 + 5 * 4096;
  REQUIRE(intact.size() == records + 4104);

  const auto code_of = [&](const Bytes& bytes) {
    store(directory / "damaged", bytes);
    std::vector<Fd> layers;
    layers.push_back(open_for_reading(directory / "damaged"));
    const auto opened =
        CowDisk::open(open_for_reading(directory / "base"), std::move(layers), 64 * 4096, directory.path);
    return opened.ok() ? std::string("opened") : std::string(to_string(opened.error().code));
  };
  REQUIRE(code_of(intact) == "opened");
  const std::string corrupt(to_string(ErrorCode::corrupt));
  const auto refused = [&](std::size_t position) {
    Bytes bytes = intact;
    bytes[position] ^= std::byte{1} << (position % 8);
    return code_of(bytes) == corrupt;
  };
  std::size_t accepted = 0;
  for (std::size_t position = 0; position < 4096; ++position) accepted += refused(position) ? 0 : 1;
  for (std::size_t position = records; position < intact.size(); ++position)
    accepted += refused(position) ? 0 : 1;
  CHECK(accepted == 0);

  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{4096},
                                 records, intact.size() - 1, intact.size() + 1}) {
    Bytes bytes = intact;
    bytes.resize(size);
    CHECK(code_of(bytes) == corrupt);
  }
}

TEST_CASE("a layer whose checksum is right is still not believed") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(4096));
  auto disk = open_disk(directory / "base", {}, 64 * 4096, directory.path);
  REQUIRE(write_bytes(*disk, 3 * 4096, pattern(4096, 4)).ok());
  REQUIRE(disk->freeze(directory / "layer").ok());
  const Bytes intact = load(directory / "layer");
  const std::size_t records = 5 * 4096;
  const auto put = [](Bytes& bytes, std::size_t at, std::uint64_t value) {
    std::memcpy(bytes.data() + at, &value, 8);
  };
  const auto error_of = [&](Bytes bytes, std::uint64_t capacity = 64 * 4096) {
    const std::span<const std::byte> all(bytes);
    const std::uint32_t sum = crc32c(all.subspan(std::min(records, all.size())), crc32c(all.first(4092)));
    std::memcpy(bytes.data() + 4092, &sum, 4);
    store(directory / "forged", bytes);
    std::vector<Fd> layers;
    layers.push_back(open_for_reading(directory / "forged"));
    const auto opened =
        CowDisk::open(open_for_reading(directory / "base"), std::move(layers), capacity, directory.path);
    return opened.ok() ? std::string("opened") : opened.error().message;
  };
  REQUIRE(error_of(intact) == "opened");
  CHECK(error_of(intact, 32 * 4096).find("larger disk") != std::string::npos);

  Bytes many = intact;
  put(many, 32, ~std::uint64_t{0});
  CHECK(error_of(many).find("more allocation records") != std::string::npos);
  Bytes far = intact;
  put(far, 24, ~std::uint64_t{0});
  CHECK(error_of(far).find("disagree") != std::string::npos);
  Bytes outside = intact;
  put(outside, records + 16, 1);  // cluster 64 of 64
  CHECK(error_of(outside).find("past its disk's end") != std::string::npos);
  Bytes chunk = intact;
  put(chunk, records, ~std::uint64_t{0});
  CHECK(error_of(chunk).find("out of order") != std::string::npos);
  Bytes later = intact;
  put(later, records + 8, 1u << 4);  // a cluster that would lie in the records
  CHECK(error_of(later).find("disagree") != std::string::npos);
}

TEST_CASE("a raw disk is written in place") {
  TemporaryDirectory directory;
  store(directory / "image", Bytes(8192));
  auto image = open_file(directory / "image", O_RDWR);
  REQUIRE(image.ok());
  auto disk = open_raw_disk(std::move(image).value());
  REQUIRE(disk.ok());
  const Bytes bytes = pattern(1024, 6);
  REQUIRE(write_bytes(**disk, 512, bytes).ok());
  REQUIRE((*disk)->flush().ok());
  CHECK(read_bytes(**disk, 512, 1024) == bytes);
  const Bytes stored = load(directory / "image");
  CHECK(Bytes(stored.begin() + 512, stored.begin() + 1536) == bytes);
  CHECK_FALSE(write_bytes(**disk, 8192, Bytes(512)).ok());

  store(directory / "odd", Bytes(8191));
  CHECK(open_raw_disk(open_for_reading(directory / "odd")).error().code == ErrorCode::invalid_argument);
}
