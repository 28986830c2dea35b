// Machines that are only data and the snapshots of them, for the tests of src/snapshot.
#pragma once

#include <cube/snapshot.hpp>
#include <map>

#include "disk_files.hpp"
#include "fake_machine.hpp"
#include "snapshot/files.hpp"
#include "snapshot/memory_image.hpp"

namespace cube::snapshot::test {

using cube::disk::test::Bytes;
using cube::disk::test::in_child;
using cube::disk::test::pattern;
using cube::disk::test::read_bytes;
using cube::disk::test::unwrap;
using cube::disk::test::write_bytes;
using cube::test::FakeMachine;
using cube::test::Mapping;
using cube::test::TemporaryDirectory;
using Names = std::set<std::string>;
namespace fs = std::filesystem;

inline constexpr std::size_t page = vmm::page_size;
inline constexpr std::size_t low_pages = 300;
inline constexpr std::size_t high_pages = 40;
inline constexpr std::uint64_t memory_bytes = (low_pages + high_pages) * page;
inline constexpr std::uint64_t disk_bytes = 16 * page;

/// Where snapshots and their scratch names are, on one file system.
struct Place {
  TemporaryDirectory directory;
  std::string scratch = directory / "scratch";
  Place() { fs::create_directory(scratch); }

  std::string operator/(const std::string& name) const { return directory / name; }
  Names names() const {
    Names found = directory.names();
    found.erase("scratch");
    return found;
  }
  std::size_t scratch_names() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(scratch), {}));
  }
};

/// Named in the scratch directory only.
inline FilePtr shared_file(const Place& place, std::span<const std::byte> content) {
  auto file = unwrap(disk::SharedFile::create(place.scratch));
  REQUIRE(write_exactly(file->fd(), content, 0).ok());
  return file;
}

/// What a layer holds: page to seed, 0 for zeros.
using Pages = std::map<std::uint64_t, unsigned>;

inline std::shared_ptr<const disk::Layer> make_layer(const Place& place, std::uint64_t pages,
                                                     const Pages& held) {
  auto writer = unwrap(disk::LayerWriter::create(place.scratch, pages * page));
  for (const auto& [index, seed] : held)
    REQUIRE((seed == 0 ? writer->write_zeros(index * page, page)
                       : writer->write(index * page, pattern(page, seed)))
                .ok());
  return writer->finish();
}

/// A machine that was booted: two regions of anonymous memory, a few pages in use, a disk image.
struct Booted {
  explicit Booted(const Place& where) : place(where), image(where / "image") {
    for (const std::size_t index : {0u, 1u, 2u, 150u, 299u})
      low.fill_page(index, static_cast<unsigned>(index));
    for (const std::size_t index : {0u, 39u}) high.fill_page(index, 1000 + static_cast<unsigned>(index));
    low.zero_page(10);  // written, but with zeros
    disk::test::store(image, pattern(disk_bytes / 2, 7));
  }
  Result<SnapshotPtr> capture() {
    return capture_first(shape, machine, unwrap(open_file(image, O_RDONLY)), place.scratch);
  }

  const Place& place;
  Mapping low{low_pages * page}, high{high_pages * page};
  FakeMachine machine{{low.bytes(), high.bytes()}, std::string("state\0of it", 11)};
  Shape shape{2, memory_bytes, disk_bytes};
  std::string image;
};

inline SnapshotPtr capture_booted(const Place& place) { return unwrap(Booted(place).capture()); }

inline SnapshotPtr reopen(const Place& place, const SnapshotPtr& snapshot) {
  const std::string directory = place / "reopened";
  if (const auto published = snapshot->publish(directory); !published) FAIL(published.error().describe());
  auto opened = unwrap(open(directory, place.scratch));
  REQUIRE(remove(directory).ok());
  return opened;
}

/// The files of a snapshot, whose directory is gone again.
inline Files files_of(const Place& place, const SnapshotPtr& snapshot) {
  const std::string directory = place / "files";
  if (const auto published = snapshot->publish(directory); !published) FAIL(published.error().describe());
  Files files = unwrap(open_files(directory, place.scratch));
  REQUIRE(remove(directory).ok());
  return files;
}

/// A clone as vmm::Machine::restore makes it, but for what runs: the base is mapped, of the layers' runs
/// every other one too, and the rest is copied.
class Restored {
 public:
  Restored(const Place& place, const SnapshotPtr& snapshot)
      : files_(files_of(place, snapshot)),
        memory_(memory_bytes, files_.memory->fd()),
        disk_(unwrap(snapshot->open_disk())) {
    const MemoryView view(files_.memory, files_.memory_layers, memory_bytes);
    bool copies = true;
    for (const vmm::MemoryImage::Run& run : view.runs()) {
      const auto at = memory_.bytes().subspan(run.memory_offset, run.bytes);
      if (std::exchange(copies, !copies))
        REQUIRE(read_exactly(run.fd, at, run.file_offset).ok());
      else
        REQUIRE(::mmap(at.data(), at.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, run.fd,
                       static_cast<off_t>(run.file_offset)) != MAP_FAILED);
    }
  }

  const Mapping& memory() const { return memory_; }
  FakeMachine& machine() { return machine_; }
  disk::CowDisk& disk() { return *disk_; }

 private:
  Files files_;
  Mapping memory_;
  FakeMachine machine_{{memory_.bytes()}, "state of a clone"};
  std::shared_ptr<disk::CowDisk> disk_;
};

/// Everything a snapshot holds.
struct Content {
  std::string state;
  Bytes memory, disk;
  bool operator==(const Content&) const = default;
};

inline Content content_of(const Files& files, const SnapshotPtr& snapshot) {
  Content content{files.state.bytes, Bytes(files.memory ? memory_bytes : 0), {}};
  if (files.memory) {
    const MemoryView view(files.memory, files.memory_layers, memory_bytes);
    REQUIRE(view.read(0, content.memory).ok());
  }
  content.disk = read_bytes(*unwrap(snapshot->open_disk()), 0, disk_bytes);
  return content;
}

inline Content content_of(const Place& place, const SnapshotPtr& snapshot) {
  return content_of(files_of(place, snapshot), snapshot);
}

inline Content content_of(const Place& place, const std::string& directory) {
  const auto snapshot = unwrap(open(directory, place.scratch));
  if (snapshot->has_memory()) REQUIRE(snapshot->verify().ok());
  return content_of(unwrap(open_files(directory, place.scratch)), snapshot);
}

inline Bytes copy_of(std::span<const std::byte> bytes) { return Bytes(bytes.begin(), bytes.end()); }

/// A snapshot with that many layers on memory and disk; each changes a page of its own and one that all do.
inline SnapshotPtr capture_chain(const Place& place, std::size_t layers) {
  SnapshotPtr snapshot = capture_booted(place);
  for (unsigned number = 1; number <= layers; ++number) {
    Restored clone(place, snapshot);
    clone.memory().fill_page(20 + number, 100 + number);
    clone.memory().fill_page(60, 200 + number);
    REQUIRE(write_bytes(clone.disk(), (number % 12) * page, pattern(page, number)).ok());
    REQUIRE(write_bytes(clone.disk(), 15 * page, pattern(512, number)).ok());
    snapshot = unwrap(capture(snapshot, clone.machine(), clone.disk()));
  }
  return snapshot;
}

inline std::string text_of(const std::string& path) { return read_file(path, 64u << 20).value(); }

inline Error error_of_opening(const Place& place, const std::string& directory) {
  auto files = open_files(directory, place.scratch);
  return files ? Error{ErrorCode::internal, "opened", 0, ""} : std::move(files).error();
}

}  // namespace cube::snapshot::test
