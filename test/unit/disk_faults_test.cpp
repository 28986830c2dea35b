// Disks and layers on a host whose calls fail, each of them in turn.
#include <sys/resource.h>

#include <csignal>

#include "disk_files.hpp"
#include "faulty_io.hpp"

using namespace cube;
using namespace cube::disk;
using namespace cube::disk::test;
using cube::test::Fault;
using cube::test::FaultyIo;

namespace {

constexpr std::uint64_t capacity = 64 * 4096;

std::shared_ptr<const Layer> make_layer(const TemporaryDirectory& scratch, unsigned seed) {
  auto writer = unwrap(LayerWriter::create(scratch.path, capacity));
  REQUIRE(writer->write(seed * 4096, pattern(3 * 4096, seed)).ok());
  REQUIRE(writer->write_zeros((seed + 4) * 4096, 2 * 4096).ok());
  REQUIRE(writer->write((seed + 8) * 4096, pattern(4096, seed + 1)).ok());
  return writer->finish();
}

/// What an operation does that does not have to notice these.
bool is_visible(Fault fault) { return fault == Fault::no_space || fault == Fault::io_error; }

const auto every_fault = {Fault::no_space, Fault::io_error, Fault::interrupted, Fault::short_write};

}  // namespace

TEST_CASE("publishing meets every fault and leaves no name, nor another content") {
  const Fault fault = GENERATE(values(every_fault));
  std::uint64_t faults = 0;
  for (bool fired = true; fired;) {
    TemporaryDirectory target, scratch;
    const auto layer = make_layer(scratch, 1);
    const Content before = content_of(*layer, 64);
    const Fd directory = unwrap(open_file(target.path, O_RDONLY | O_DIRECTORY));

    FaultyIo faulty(faults + 1, fault);
    const auto published = layer->publish(directory.get(), "layer");
    fired = faulty.disarm();
    faults += fired ? 1 : 0;

    INFO("fault " << static_cast<int>(fault) << " at call " << faults << ": "
                  << (fired ? faulty.where() : "none"));
    CHECK(content_of(*layer, 64) == before);
    CHECK(scratch.names().size() == 1);
    REQUIRE(published.ok() == !(fired && is_visible(fault)));
    if (!published.ok()) {
      CHECK(target.names().size() == 0);
      const auto again = layer->publish(directory.get(), "layer");
      const bool sync_failed = std::string_view(faulty.where()) == "fsync";
      CHECK(again.ok() == !sync_failed);
      CHECK(target.names().size() == (sync_failed ? 0 : 1));
      if (sync_failed) continue;
    }
    CHECK(content_of(*unwrap(open_layer(target / "layer", capacity, scratch)), 64) == before);
  }
  CHECK(faults >= (fault == Fault::short_write ? 2 : 6));  // records, size, header, mode, sync, name
}

TEST_CASE("a write to a disk meets every fault and is done wholly or not at all") {
  const Fault fault = GENERATE(values(every_fault));
  std::uint64_t faults = 0;
  for (bool fired = true; fired;) {
    TemporaryDirectory directory, scratch;
    store(directory / "base", pattern(16 * 4096, 1));
    auto disk = open_disk(directory / "base", {}, 16 * 4096, scratch);
    const Bytes before = read_bytes(*disk, 0, 16 * 4096);
    const Bytes written = pattern(5 * 4096, 2);
    Bytes after = before;
    std::copy(written.begin(), written.end(), after.begin() + 2 * 4096 + 512);

    FaultyIo faulty(faults + 1, fault);
    const auto done = write_bytes(*disk, 2 * 4096 + 512, written);
    fired = faulty.disarm();
    faults += fired ? 1 : 0;

    INFO("fault " << static_cast<int>(fault) << " at call " << faults << ": "
                  << (fired ? faulty.where() : "none"));
    REQUIRE(done.ok() == !(fired && is_visible(fault)));
    CHECK(read_bytes(*disk, 0, 16 * 4096) == (done.ok() ? after : before));
    CHECK(disk->dirty_bytes() == (done.ok() ? 6 * 4096 : 0));
    if (!done.ok()) CHECK(disk->freeze().empty());
    REQUIRE(write_bytes(*disk, 2 * 4096 + 512, written).ok());
    CHECK(read_bytes(*disk, 0, 16 * 4096) == after);
  }
  CHECK(faults >= (fault == Fault::short_write ? 1 : 2));  // the top file, the data
}

TEST_CASE("merging meets every fault and leaves nothing behind, nor the layers changed") {
  const Fault fault = GENERATE(values(every_fault));
  std::uint64_t faults = 0;
  for (bool fired = true; fired;) {
    TemporaryDirectory scratch;
    const Layers layers{make_layer(scratch, 1), make_layer(scratch, 3)};
    const Content oldest = content_of(*layers[0], 64), newest = content_of(*layers[1], 64);
    Content expected = oldest;
    for (std::size_t cluster = 0; cluster < 64; ++cluster) {
      if (!newest.held[cluster]) continue;
      expected.held[cluster] = true;
      const auto from = newest.bytes.begin() + static_cast<std::ptrdiff_t>(cluster * 4096);
      std::copy(from, from + 4096, expected.bytes.begin() + static_cast<std::ptrdiff_t>(cluster * 4096));
    }

    FaultyIo faulty(faults + 1, fault);
    auto merged = merge_layers(layers, scratch.path, capacity);
    fired = faulty.disarm();
    faults += fired ? 1 : 0;

    INFO("fault " << static_cast<int>(fault) << " at call " << faults << ": "
                  << (fired ? faulty.where() : "none"));
    REQUIRE(merged.ok() == !(fired && is_visible(fault)));
    CHECK(scratch.names().size() == (merged.ok() ? 3 : 2));
    CHECK(content_of(*layers[0], 64) == oldest);
    CHECK(content_of(*layers[1], 64) == newest);
    if (!merged.ok()) merged = merge_layers(layers, scratch.path, capacity);
    CHECK(content_of(*unwrap(std::move(merged)), 64) == expected);
  }
  CHECK(faults >= (fault == Fault::short_write ? 3 : 6));
}

TEST_CASE("zeros over data that cannot be punched are an error, and done when tried again") {
  const Fault fault = GENERATE(Fault::no_space, Fault::io_error, Fault::interrupted);
  TemporaryDirectory scratch;
  auto writer = unwrap(LayerWriter::create(scratch.path, capacity));
  const Bytes bytes = pattern(4 * 4096, 1);
  REQUIRE(writer->write(0, bytes).ok());
  FaultyIo faulty(1, fault);
  const auto zeroed = writer->write_zeros(0, 8192);
  REQUIRE(faulty.disarm());
  CHECK(zeroed.ok() == (fault == Fault::interrupted));
  REQUIRE(writer->write_zeros(0, 8192).ok());
  const Content content = content_of(*writer->finish(), 64);
  CHECK(std::equal(content.bytes.begin() + 8192, content.bytes.begin() + 4 * 4096, bytes.begin() + 8192));
  CHECK(std::count(content.bytes.begin(), content.bytes.begin() + 8192, std::byte{0}) == 8192);
}

TEST_CASE("a shared file is made or adopted wholly or not at all") {
  const Fault fault = GENERATE(Fault::no_space, Fault::io_error, Fault::interrupted);
  TemporaryDirectory directory, scratch;
  store(directory / "file", Bytes(1));
  Fd file = unwrap(open_file(directory / "file", O_RDONLY));
  for (const bool adopts : {false, true}) {
    FaultyIo faulty(1, fault);
    const auto made =
        adopts ? SharedFile::adopt(std::move(file), scratch.path) : SharedFile::create(scratch.path);
    REQUIRE(faulty.disarm());
    CHECK(made.ok() == (fault == Fault::interrupted));
    CHECK(scratch.names().size() == (made.ok() ? 1 : 0));
  }
}

TEST_CASE("zeros after a failed write do not show what it left") {
  TemporaryDirectory scratch;
  CHECK(in_child([&] {
          auto writer = unwrap(LayerWriter::create(scratch.path, capacity));
          ::signal(SIGXFSZ, SIG_IGN);
          const rlimit limit{3 * 4096, 3 * 4096};
          if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
          if (writer->write(0, pattern(4 * 4096, 1)).ok()) return 2;  // two of its clusters fit
          if (!writer->write_zeros(0, 4 * 4096).ok()) return 3;
          return content_of(*writer->finish(), 64).bytes == Bytes(capacity) ? 0 : 4;
        }) == 0);
}
