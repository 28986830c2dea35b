#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <iostream>

#include "disk/vectored_io.hpp"
#include "disk_files.hpp"

using namespace cube;
using namespace cube::disk;
using namespace cube::disk::test;

namespace {

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

}  // namespace

TEST_CASE("a disk behaves as an array of bytes through writes, freezes, merging and re-opening") {
  const unsigned seed = GENERATE(1u, 2u);
  std::mt19937 random(seed);
  TemporaryDirectory directory, scratch;
  const Bytes base = pattern(301 * 512 + 100, seed);    // ends inside a sector inside a cluster
  const std::uint64_t capacity = 200 * 4096 + 3 * 512;  // ends inside a cluster
  store(directory / "base", base);
  Bytes model = base;
  model.resize(capacity);
  auto disk = open_disk(directory / "base", {}, capacity, scratch);

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
    if (step % 300 == 299) {
      const Layers layers = disk->freeze();
      if (layers.size() == 3)
        disk->replace_oldest(2, unwrap(merge_layers(std::span(layers).first(2), scratch.path, capacity)));
    }
    if (step % 1500 == 1499) {
      Layers opened;
      for (const auto& layer : disk->freeze()) {
        const std::string path = directory / ("layer" + std::to_string(opened.size()) + std::to_string(step));
        REQUIRE(publish(*layer, path).ok());
        opened.push_back(unwrap(open_layer(path, capacity, scratch)));
      }
      disk = open_disk(directory / "base", opened, capacity, scratch);
    }
  }
  CHECK(read_bytes(*disk, 0, capacity) == model);
  CHECK(load(directory / "base") == base);
}

TEST_CASE("two clones of one base do not see each other's writes") {
  TemporaryDirectory directory;
  const Bytes base = pattern(16 * 4096, 7);
  store(directory / "base", base);
  auto one = open_disk(directory / "base", {}, base.size(), directory);
  auto two = open_disk(directory / "base", {}, base.size(), directory);
  REQUIRE(write_bytes(*one, 512, Bytes(512, std::byte{1})).ok());
  REQUIRE(write_bytes(*two, 4096, Bytes(4096, std::byte{2})).ok());
  CHECK(read_bytes(*one, 512, 512) == Bytes(512, std::byte{1}));
  CHECK(read_bytes(*one, 4096, 4096) == Bytes(base.begin() + 4096, base.begin() + 8192));
  CHECK(read_bytes(*two, 0, 4096) == Bytes(base.begin(), base.begin() + 4096));
  CHECK(one->dirty_bytes() == 4096);
  CHECK(load(directory / "base") == base);
}

TEST_CASE("the scratch of a disk is made at the first write and goes with the disk and its layers") {
  TemporaryDirectory directory, scratch;
  store(directory / "base", pattern(8192, 1));
  auto disk = open_disk(directory / "base", {}, 8192, scratch);
  CHECK(scratch.names().size() == 1);  // the base
  REQUIRE(write_bytes(*disk, 0, pattern(4096, 2)).ok());
  CHECK(scratch.names().size() == 2);
  Layers layers = disk->freeze();
  disk.reset();
  CHECK(scratch.names().size() == 1);
  layers.clear();
  CHECK(scratch.names().size() == 0);
  CHECK(directory.names().size() == 1);
}

TEST_CASE("a 64 GiB disk holds on disk and in memory only what was written") {
  TemporaryDirectory directory, scratch;
  store(directory / "base", pattern(4096, 1));
  const std::uint64_t capacity = 64ull << 30;
  auto disk = open_disk(directory / "base", {}, capacity, scratch);
  CHECK(read_bytes(*disk, capacity - 4096, 4096) == Bytes(4096));
  const Bytes end = pattern(512, 2);
  REQUIRE(write_bytes(*disk, capacity - 512, end).ok());
  REQUIRE(write_bytes(*disk, 20ull << 30, end).ok());
  REQUIRE(publish(*disk->freeze().back(), directory / "layer").ok());
  struct stat status {};
  REQUIRE(::stat((directory / "layer").c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 128 * 1024);
  auto again = open_disk(directory / "base", {unwrap(open_layer(directory / "layer", capacity, scratch))},
                         capacity, scratch);
  CHECK(read_bytes(*again, capacity - 512, 512) == end);
  CHECK(read_bytes(*again, 20ull << 30, 512) == end);
  CHECK(read_bytes(*again, 10ull << 30, 512) == Bytes(512));
}

TEST_CASE("freezing without writes makes no layer") {
  TemporaryDirectory directory;
  store(directory / "base", pattern(8192, 3));
  auto disk = open_disk(directory / "base", {}, 8192, directory);
  CHECK(disk->freeze().empty());
  REQUIRE(write_bytes(*disk, 0, Bytes(512)).ok());
  const Layers layers = disk->freeze();
  CHECK(layers.size() == 1);
  CHECK(disk->freeze() == layers);
}

TEST_CASE("each freeze keeps the disk as it was then, without being published") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(8192));
  auto disk = open_disk(directory / "base", {}, 8192, directory);
  const Bytes one(512, std::byte{1}), two(512, std::byte{2}), three(512, std::byte{3});
  REQUIRE(write_bytes(*disk, 512, one).ok());
  const Layers at_one = disk->freeze();
  CHECK(disk->dirty_bytes() == 0);
  REQUIRE(write_bytes(*disk, 1024, two).ok());
  const Layers at_two = disk->freeze();
  REQUIRE(write_bytes(*disk, 512, three).ok());

  auto first = open_disk(directory / "base", at_one, 8192, directory);
  REQUIRE(write_bytes(*first, 1024, three).ok());
  CHECK(read_bytes(*first, 512, 512) == one);
  CHECK(read_bytes(*first, 1024, 512) == three);
  auto second = open_disk(directory / "base", at_two, 8192, directory);
  CHECK(read_bytes(*second, 512, 512) == one);
  CHECK(read_bytes(*second, 1024, 512) == two);
  CHECK(read_bytes(*disk, 512, 512) == three);
}

TEST_CASE("a disk reads the same when its oldest layers are merged under it") {
  TemporaryDirectory directory, scratch;
  store(directory / "base", pattern(8 * 4096, 1));
  auto disk = open_disk(directory / "base", {}, 8 * 4096, scratch);
  for (unsigned cluster = 0; cluster < 3; ++cluster) {
    REQUIRE(write_bytes(*disk, cluster * 4096, pattern(2 * 4096, cluster + 2)).ok());
    REQUIRE(disk->freeze().size() == cluster + 1);
  }
  REQUIRE(write_bytes(*disk, 3 * 4096, pattern(512, 9)).ok());
  const Bytes before = read_bytes(*disk, 0, 8 * 4096);
  {
    Layers layers = disk->freeze();
    REQUIRE(layers.size() == 4);
    const auto merged = unwrap(merge_layers(std::span(layers).first(3), scratch.path, 8 * 4096));
    disk->replace_oldest(3, merged);
    CHECK(disk->freeze() == Layers{merged, layers.back()});
  }
  CHECK(scratch.names().size() == 3);  // the base, the merged layer, the newest: the others went
  CHECK(read_bytes(*disk, 0, 8 * 4096) == before);
}

TEST_CASE("requests that are not whole sectors inside the disk are refused") {
  TemporaryDirectory directory;
  store(directory / "base", Bytes(8192));
  auto disk = open_disk(directory / "base", {}, 8192, directory);
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
    return CowDisk::open(adopt(directory / "base", directory), {}, capacity, directory.path);
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
          auto disk = open_disk(directory / "base", {}, base.size(), directory);
          if (!write_bytes(*disk, 4 * 4096, Bytes(4096, std::byte{1})).ok()) return 2;
          // Clusters 10 to 29 of which 10 to 18 still fit: a short write, then the error.
          const auto failed = write_bytes(*disk, 10 * 4096 + 512, Bytes(20 * 4096, std::byte{2}));
          if (failed.ok() || failed.error().os_errno != EFBIG) return 3;
          if (disk->dirty_bytes() != 4096) return 4;
          Bytes expected = base;
          std::fill_n(expected.begin() + 4 * 4096, 4096, std::byte{1});
          if (read_bytes(*disk, 0, base.size()) != expected) return 5;
          // Publishing needs room behind the clusters; there is enough for one record only without
          // cluster 18.
          if (!write_bytes(*disk, 18 * 4096, Bytes(512, std::byte{3})).ok()) return 6;
          if (publish(*disk->freeze().back(), directory / "layer").ok()) return 7;
          if (std::filesystem::exists(directory / "layer")) return 8;
          std::fill_n(expected.begin() + 18 * 4096, 512, std::byte{3});
          return read_bytes(*disk, 0, base.size()) == expected ? 0 : 9;
        }) == 0);
}

TEST_CASE("a full file system is resource_exhausted") {
  TemporaryDirectory scratch;
  const Bytes base = pattern(10 * 4096, 9);
  const int status = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", scratch.path.c_str(), "tmpfs", 0, "size=96k") != 0)
      return 77;
    store(scratch / "base", base);
    auto disk = open_disk(scratch / "base", {}, 256 * 4096, scratch);
    std::uint64_t offset = 0;
    auto written = Result<void>();
    for (; offset < 256 * 4096; offset += 4096)
      if (written = write_bytes(*disk, offset, Bytes(4096, std::byte{1})); !written.ok()) break;
    if (written.ok() || written.error().code != ErrorCode::resource_exhausted) return 1;
    if (disk->dirty_bytes() != offset) return 2;
    Bytes expected = base;
    expected.resize(256 * 4096);
    std::fill_n(expected.begin(), offset, std::byte{1});
    if (read_bytes(*disk, 0, expected.size()) != expected) return 3;
    const auto published = publish(*disk->freeze().back(), scratch / "layer");
    return !published.ok() && published.error().code == ErrorCode::resource_exhausted ? 0 : 4;
  });
  if (status == 77)
    std::cerr << "skipped: a private mount of a small tmpfs needs CAP_SYS_ADMIN\n";
  else
    CHECK(status == 0);
}

TEST_CASE("a raw disk is written in place") {
  TemporaryDirectory directory;
  store(directory / "image", Bytes(8192));
  auto disk = open_raw_disk(unwrap(open_file(directory / "image", O_RDWR)));
  REQUIRE(disk.ok());
  const Bytes bytes = pattern(1024, 6);
  REQUIRE(write_bytes(**disk, 512, bytes).ok());
  REQUIRE((*disk)->flush().ok());
  CHECK(read_bytes(**disk, 512, 1024) == bytes);
  const Bytes stored = load(directory / "image");
  CHECK(Bytes(stored.begin() + 512, stored.begin() + 1536) == bytes);
  CHECK_FALSE(write_bytes(**disk, 8192, Bytes(512)).ok());

  store(directory / "odd", Bytes(8191));
  CHECK(open_raw_disk(unwrap(open_file(directory / "odd", O_RDONLY))).error().code ==
        ErrorCode::invalid_argument);
}
