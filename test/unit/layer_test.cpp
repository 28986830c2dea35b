#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <thread>

#include "disk/allocation_bitmap.hpp"
#include "disk_files.hpp"

using namespace cube;
using namespace cube::disk;
using namespace cube::disk::test;

namespace {

constexpr std::uint64_t capacity = 64 * 4096;

std::unique_ptr<LayerWriter> make_writer(const TemporaryDirectory& scratch) {
  return unwrap(LayerWriter::create(scratch.path, capacity));
}

std::uint64_t stored_bytes(const Layer& layer) {
  struct stat status {};
  REQUIRE(::fstat(layer.fd(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST_CASE("an allocation bitmap counts and finds what was inserted") {
  AllocationBitmap bitmap;
  CHECK(bitmap.end() == 0);
  bitmap.insert(5, 1);
  bitmap.insert(5, 3);
  bitmap.insert(AllocationBitmap::clusters_per_chunk - 1, 2);
  CHECK(bitmap.count() == 5);
  CHECK(bitmap.end() == AllocationBitmap::clusters_per_chunk + 1);
  CHECK_FALSE(bitmap.contains(4));
  CHECK(bitmap.contains(7));
  CHECK_FALSE(bitmap.contains(8));
  CHECK_FALSE(bitmap.contains(1ull << 40));
}

TEST_CASE("the runs of an allocation bitmap are those of its clusters") {
  std::mt19937 random(GENERATE(1u, 2u, 3u));
  constexpr std::uint64_t clusters = 3 * AllocationBitmap::clusters_per_chunk;
  AllocationBitmap bitmap;
  std::vector<bool> model(clusters);
  const auto insert = [&](std::uint64_t first, std::uint64_t count) {
    bitmap.insert(first, count);
    std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, true);
  };
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t first = random() % clusters;
    insert(first, random() % std::min<std::uint64_t>(clusters - first, i % 10 == 0 ? 2000 : 130));
  }
  insert(0, 1);
  insert(AllocationBitmap::clusters_per_chunk - 64, 128);
  insert(clusters - 1, 1);

  std::vector<bool> seen(clusters);
  std::uint64_t end_of_previous = 0;
  bitmap.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    CHECK(count > 0);
    CHECK((first == 0 || first > end_of_previous));  // neighbours are one run
    end_of_previous = first + count;
    std::fill_n(seen.begin() + static_cast<std::ptrdiff_t>(first), count, true);
  });
  CHECK(seen == model);
  CHECK(bitmap.count() == static_cast<std::uint64_t>(std::count(model.begin(), model.end(), true)));
  CHECK(bitmap.end() == clusters);
}

TEST_CASE("a shared file can be given names as long as it lives") {
  TemporaryDirectory directory, scratch;
  const Fd target = unwrap(open_file(directory.path, O_RDONLY | O_DIRECTORY));
  store(directory / "old", Bytes(100));
  {
    const auto file = adopt(directory / "old", scratch);
    REQUIRE(::unlink((directory / "old").c_str()) == 0);
    REQUIRE(file->link(target.get(), "new").ok());
    CHECK(file->link(target.get(), "new").error().code == ErrorCode::already_exists);
    CHECK(scratch.names().size() == 1);
  }
  CHECK(scratch.names().size() == 0);
  CHECK(load(directory / "new") == Bytes(100));
}

TEST_CASE("what cannot be linked is not adopted") {
  TemporaryDirectory directory, scratch;
  const auto refused = [&](Fd file) {
    const auto adopted = SharedFile::adopt(std::move(file), scratch.path);
    return adopted.ok() ? "adopted" : std::string(to_string(adopted.error().code));
  };
  CHECK(refused(Fd(::memfd_create("elsewhere", 0))) == "invalid_argument");
  CHECK(refused(unwrap(open_file("/dev/null", O_RDONLY))) == "invalid_argument");
  CHECK(refused(unwrap(open_file(directory.path, O_RDONLY))) == "invalid_argument");
  store(directory / "gone", Bytes(1));
  Fd nameless = unwrap(open_file(directory / "gone", O_RDONLY));
  REQUIRE(::unlink((directory / "gone").c_str()) == 0);
  CHECK(refused(std::move(nameless)) == "not_found");
  CHECK(scratch.names().size() == 0);
}

TEST_CASE("scratch files that a crash left are removed, and nothing else") {
  TemporaryDirectory directory;
  CHECK(in_child([&] {
          const auto left = SharedFile::create(directory.path);
          if (!left) return 1;
          ::_exit(directory.names().size() == 1 ? 0 : 2);
        }) == 0);
  store(directory / ".shared-notes", Bytes(1));
  store(directory / ".shared-0123456789ABCDEF", Bytes(1));
  REQUIRE(directory.names().size() == 3);
  REQUIRE(remove_scratch_files(directory.path).ok());
  CHECK(directory.names().size() == 2);
  CHECK(remove_scratch_files(directory / "missing").error().code == ErrorCode::not_found);
}

TEST_CASE("a layer holds what was written, in any order, and is the same when it is opened again") {
  TemporaryDirectory directory, scratch;
  std::mt19937 random(GENERATE(1u, 2u, 3u));
  Content expected{std::vector<bool>(64), Bytes(capacity)};
  auto writer = make_writer(scratch);
  for (int i = 0; i < 30; ++i) {
    const std::uint64_t first = random() % 64;
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(64 - first, 6);
    const bool zeros = random() % 2 == 0;
    const Bytes bytes = zeros ? Bytes(count * 4096) : pattern(count * 4096, random());
    if (zeros)
      REQUIRE(writer->write_zeros(first * 4096, bytes.size()).ok());
    else
      REQUIRE(writer->write(first * 4096, bytes).ok());
    std::fill_n(expected.held.begin() + static_cast<std::ptrdiff_t>(first), count, true);
    std::copy(bytes.begin(), bytes.end(), expected.bytes.begin() + static_cast<std::ptrdiff_t>(first * 4096));
  }
  const auto layer = writer->finish();
  CHECK(content_of(*layer, 64) == expected);
  REQUIRE(publish(*layer, directory / "layer").ok());
  CHECK(content_of(*layer, 64) == expected);
  const auto again = unwrap(open_layer(directory / "layer", capacity, scratch));
  CHECK(content_of(*again, 64) == expected);
  struct stat status {};
  REQUIRE(::stat((directory / "layer").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0400);
}

TEST_CASE("zeros are held without being stored, also over what was written") {
  TemporaryDirectory directory;
  const std::uint64_t large = 1ull << 40;
  auto writer = unwrap(LayerWriter::create(directory.path, large));
  REQUIRE(writer->write_zeros(0, large).ok());
  REQUIRE(writer->write(4096, pattern(1 << 20, 1)).ok());
  REQUIRE(writer->write_zeros(0, 1 << 19).ok());
  REQUIRE(writer->write_zeros(1 << 19, 1 << 20).ok());
  const auto layer = writer->finish();
  CHECK(layer->held_clusters() == large / 4096);
  CHECK(stored_bytes(*layer) <= 4096);
  REQUIRE(publish(*layer, directory / "layer").ok());  // without reading a tebibyte of zeros
  const auto again = unwrap(open_layer(directory / "layer", large, directory));
  CHECK(again->held_clusters() == large / 4096);
}

TEST_CASE("a layer with zeros has the same checksum when they are stored") {
  TemporaryDirectory directory, scratch;
  auto writer = make_writer(scratch);
  REQUIRE(writer->write(0, pattern(4096, 1)).ok());
  REQUIRE(writer->write_zeros(4096, 5 * 4096).ok());
  REQUIRE(writer->write(6 * 4096, pattern(4096, 2)).ok());
  REQUIRE(publish(*writer->finish(), directory / "sparse").ok());
  store(directory / "full", load(directory / "sparse"));
  CHECK(open_layer(directory / "full", capacity, scratch).ok());
}

TEST_CASE("a layer takes whole clusters inside its capacity only") {
  TemporaryDirectory scratch;
  auto writer = unwrap(LayerWriter::create(scratch.path, 3 * 4096 + 512));
  const auto code = [&](std::uint64_t offset, std::uint64_t length) {
    const auto zeros = writer->write_zeros(offset, length);
    return zeros.ok() ? std::string("written") : std::string(to_string(zeros.error().code));
  };
  CHECK(code(0, 4 * 4096) == "written");  // the last cluster is a whole one
  CHECK(code(0, 5 * 4096) == "invalid_argument");
  CHECK(code(512, 4096) == "invalid_argument");
  CHECK(code(0, 512) == "invalid_argument");
  CHECK(code(5 * 4096, 0) == "invalid_argument");
  CHECK(code(~std::uint64_t{4095}, 8192) == "invalid_argument");
  CHECK_FALSE(writer->write(4 * 4096, Bytes(4096)).ok());
  CHECK(LayerWriter::create(scratch.path, ~std::uint64_t{0}).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("a layer without clusters can be published") {
  TemporaryDirectory directory;
  REQUIRE(publish(*make_writer(directory)->finish(), directory / "empty").ok());
  CHECK(unwrap(open_layer(directory / "empty", capacity, directory))->held_clusters() == 0);
}

TEST_CASE("a layer is published by several threads at once, and again by who opened it") {
  TemporaryDirectory directory, scratch;
  auto writer = make_writer(scratch);
  REQUIRE(writer->write(0, pattern(capacity, 1)).ok());
  const auto layer = writer->finish();
  const Content expected = content_of(*layer, 64);
  const Fd target = unwrap(open_file(directory.path, O_RDONLY | O_DIRECTORY));
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&, i] {
        // A failure is seen by the missing name: Catch's assertions are for one thread.
        (void)layer->publish(target.get(), std::to_string(i).c_str());
      });
  }
  CHECK(directory.names().size() == 8);
  CHECK(publish(*layer, directory / "3").error().code == ErrorCode::already_exists);
  const auto opened = unwrap(open_layer(directory / "7", capacity, scratch));
  std::filesystem::remove(directory / "7");
  REQUIRE(publish(*opened, directory / "again").ok());
  CHECK(content_of(*unwrap(open_layer(directory / "again", capacity, scratch)), 64) == expected);
}

TEST_CASE("merged layers hold what all of them do, the newest first, and zeros stay holes") {
  TemporaryDirectory scratch;
  std::mt19937 random(GENERATE(1u, 2u, 3u));
  Content expected{std::vector<bool>(64), Bytes(capacity)};
  Layers layers;
  for (int number = 0; number < 4; ++number) {
    auto writer = make_writer(scratch);
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t first = random() % 64;
      const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(64 - first, 5);
      const bool zeros = random() % 2 == 0;
      const Bytes bytes = zeros ? Bytes(count * 4096) : pattern(count * 4096, random());
      REQUIRE((zeros ? writer->write_zeros(first * 4096, bytes.size()) : writer->write(first * 4096, bytes))
                  .ok());
      std::fill_n(expected.held.begin() + static_cast<std::ptrdiff_t>(first), count, true);
      std::copy(bytes.begin(), bytes.end(),
                expected.bytes.begin() + static_cast<std::ptrdiff_t>(first * 4096));
    }
    layers.push_back(writer->finish());
  }
  const auto merged = unwrap(merge_layers(layers, scratch.path, capacity));
  CHECK(content_of(*merged, 64) == expected);
  std::uint64_t clusters_of_zeros = 0;
  for (std::uint64_t cluster = 0; cluster < 64; ++cluster)
    if (const auto* bytes = expected.bytes.data() + cluster * 4096;
        std::all_of(bytes, bytes + 4096, [](std::byte byte) { return byte == std::byte{0}; }))
      ++clusters_of_zeros;
  CHECK(stored_bytes(*merged) <= (64 - clusters_of_zeros) * 4096 + 4096);
  CHECK(unwrap(merge_layers({}, scratch.path, capacity))->held_clusters() == 0);
}

TEST_CASE("a damaged layer is refused, whichever byte it is") {
  TemporaryDirectory directory;
  auto writer = make_writer(directory);
  REQUIRE(writer->write(3 * 4096, pattern(8192, 4)).ok());
  REQUIRE(publish(*writer->finish(), directory / "layer").ok());
  const Bytes intact = load(directory / "layer");
  const std::size_t records = 4096 + 5 * 4096;
  REQUIRE(intact.size() == records + 4104);

  const auto code_of = [&](const Bytes& bytes) {
    store(directory / "damaged", bytes);
    const auto opened = open_layer(directory / "damaged", capacity, directory);
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
  for (std::size_t position = 4096 + 3 * 4096; position < intact.size(); ++position)
    accepted += refused(position) ? 0 : 1;
  CHECK(accepted == 0);
  CHECK_FALSE(refused(4096));  // a cluster that is not held has no meaning

  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{4096},
                                 records, intact.size() - 1, intact.size() + 1}) {
    Bytes bytes = intact;
    bytes.resize(size);
    CHECK(code_of(bytes) == corrupt);
  }
}

TEST_CASE("a layer whose checksum is right is still not believed") {
  TemporaryDirectory directory;
  auto writer = make_writer(directory);
  REQUIRE(writer->write(3 * 4096, pattern(4096, 4)).ok());
  REQUIRE(publish(*writer->finish(), directory / "layer").ok());
  const Bytes intact = load(directory / "layer");
  const std::size_t records = 5 * 4096;
  const auto put = [](Bytes& bytes, std::size_t at, std::uint64_t value) {
    std::memcpy(bytes.data() + at, &value, 8);
  };
  const auto error_of = [&](Bytes bytes, std::uint64_t bound = capacity) {
    const std::span<const std::byte> all(bytes);
    const std::uint32_t sum = crc32c(all.subspan(std::min(records, all.size())), crc32c(all.first(4092)));
    std::memcpy(bytes.data() + 4092, &sum, 4);
    store(directory / "forged", bytes);
    const auto opened = open_layer(directory / "forged", bound, directory);
    return opened.ok() ? std::string("opened") : opened.error().message;
  };
  REQUIRE(error_of(intact) == "opened");
  CHECK(error_of(intact, 32 * 4096).find("larger disk or memory") != std::string::npos);

  Bytes many = intact;
  put(many, 32, ~std::uint64_t{0});
  CHECK(error_of(many).find("more allocation records") != std::string::npos);
  Bytes far = intact;
  put(far, 24, ~std::uint64_t{0});
  CHECK(error_of(far).find("disagree") != std::string::npos);
  Bytes outside = intact;
  put(outside, records + 16, 1);  // cluster 64 of 64
  CHECK(error_of(outside).find("past its capacity") != std::string::npos);
  Bytes chunk = intact;
  put(chunk, records, ~std::uint64_t{0});
  CHECK(error_of(chunk).find("out of order") != std::string::npos);
  Bytes old = intact;
  old[8] = std::byte{1};
  CHECK(error_of(old).find("format version 1") != std::string::npos);
  Bytes data = intact;
  data[4 * 4096] ^= std::byte{1};
  CHECK(error_of(data).find("mismatch in its data") != std::string::npos);
  Bytes other = intact;
  put(other, records + 8, 1u << 2);  // the records are those of another cluster
  CHECK(error_of(other).find("disagree") != std::string::npos);
  Bytes later = intact;
  put(later, records + 8, 1u << 4);  // a cluster that would lie in the records
  CHECK(error_of(later).find("disagree") != std::string::npos);
}
