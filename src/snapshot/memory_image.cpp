#include "snapshot/memory_image.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cube::snapshot {
namespace {

using vmm::page_size;

constexpr std::size_t chunk_bytes = 1u << 20;

bool is_zero(std::span<const std::byte> page) {
  for (std::size_t at = 0; at < page.size(); at += 64) {
    std::uint64_t words[8];
    std::memcpy(words, page.data() + at, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0)
      return false;
  }
  return true;
}

std::uint32_t add_page(std::uint32_t checksum, std::uint64_t offset, std::span<const std::byte> page) {
  const std::uint64_t index = offset / page_size;
  return crc32c(page, crc32c(std::as_bytes(std::span(&index, 1)), checksum));
}

/// Splits `bytes` at `offset` into runs of neighbouring pages for which `kind` says the same, and calls
/// `run(offset, run's bytes, kind)` for each.
template <class Kind, class Run>
Result<void> for_each_kind(std::uint64_t offset, std::span<const std::byte> bytes, Kind kind, Run run) {
  while (!bytes.empty()) {
    const auto first = kind(offset, bytes.first(page_size));
    std::size_t length = page_size;
    while (length < bytes.size() && kind(offset + length, bytes.subspan(length, page_size)) == first)
      length += page_size;
    CUBE_TRY(run(offset, bytes.first(length), first));
    offset += length;
    bytes = bytes.subspan(length);
  }
  return {};
}

/// Calls `chunk(offset in the image, bytes)` for such pages of memory, at most 1 MiB a call.
template <class Chunk>
Result<void> for_each_chunk(const vmm::ProcessMemory& memory, WhichPages which, Chunk chunk) {
  const auto runs = resident_pages(memory, which);
  if (!runs) return runs.error();
  std::vector<std::byte> bytes(chunk_bytes);
  for (const vmm::PageRun& run : *runs)
    for (std::uint64_t done = 0; done < run.bytes; done += chunk_bytes) {
      const auto piece = std::span(bytes).first(std::min<std::uint64_t>(chunk_bytes, run.bytes - done));
      CUBE_TRY(memory.read(run.offset + done, piece));
      CUBE_TRY(chunk(run.offset + done, piece));
    }
  return {};
}

}  // namespace

// A guest may go on running only after this, so what is read here does not change under it.
Result<std::uint32_t> write_base_image(int fd, const vmm::ProcessMemory& memory) {
  std::uint32_t checksum = 0;
  CUBE_TRY(
      for_each_chunk(memory, WhichPages::own, [&](std::uint64_t offset, std::span<const std::byte> bytes) {
        return for_each_kind(
            offset, bytes, [](std::uint64_t, std::span<const std::byte> page) { return is_zero(page); },
            [&](std::uint64_t at, std::span<const std::byte> run, bool zero) -> Result<void> {
              if (zero) return {};
              for (std::size_t page = 0; page < run.size(); page += page_size)
                checksum = add_page(checksum, at + page, run.subspan(page, page_size));
              return write_exactly(fd, run, at);
            });
      }));
  if (retry_interrupted([&] { return ::ftruncate(fd, static_cast<off_t>(memory.bytes())); }) != 0)
    return os_error(errno, "cannot set a file's size");
  return checksum;
}

Result<std::uint32_t> checksum_base_image(int fd, std::uint64_t bytes) {
  std::uint32_t checksum = 0;
  std::vector<std::byte> chunk(chunk_bytes);
  for (std::uint64_t offset = 0; offset < bytes;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data > 0) offset = static_cast<std::uint64_t>(data) / page_size * page_size;
    if (offset >= bytes) break;
    const auto piece = std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), bytes - offset));
    CUBE_TRY(read_exactly(fd, piece, offset));
    for (std::size_t page = 0; page < piece.size(); page += page_size)
      if (const auto content = piece.subspan(page, page_size); !is_zero(content))
        checksum = add_page(checksum, offset + page, content);
    offset += piece.size();
  }
  return checksum;
}

MemoryView::MemoryView(FilePtr base, const Layers& layers, std::uint64_t bytes)
    : base_(std::move(base)), layers_(layers) {
  // From the newest down, each layer adds what no newer one holds.
  std::vector<bool> taken(bytes / page_size);
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    (*layer)->for_each_run([&](std::uint64_t first, std::uint64_t count) {
      for (std::uint64_t page = first; page < first + count; ++page) {
        if (taken[page]) continue;
        taken[page] = true;
        const std::uint64_t offset = page * page_size;
        auto* last = runs_.empty() ? nullptr : &runs_.back();
        if (last != nullptr && last->fd == (*layer)->fd() && last->memory_offset + last->bytes == offset)
          last->bytes += page_size;
        else
          runs_.push_back({offset, page_size, (*layer)->fd(), disk::Layer::data_offset + offset});
      }
    });
  }
  std::ranges::sort(runs_, {}, &vmm::MemoryImage::Run::memory_offset);
}

Result<void> MemoryView::read(std::uint64_t offset, std::span<std::byte> into) const {
  // The first run that ends behind `offset`.
  auto run = std::ranges::upper_bound(runs_, offset, {}, [](const vmm::MemoryImage::Run& candidate) {
    return candidate.memory_offset + candidate.bytes;
  });
  while (!into.empty()) {
    const bool in_run = run != runs_.end() && run->memory_offset <= offset;
    const std::uint64_t end = in_run               ? run->memory_offset + run->bytes
                              : run != runs_.end() ? run->memory_offset
                                                   : offset + into.size();
    const auto piece = into.first(std::min<std::uint64_t>(into.size(), end - offset));
    CUBE_TRY(in_run ? read_exactly(run->fd, piece, run->file_offset + (offset - run->memory_offset))
                    : read_exactly(base_->fd(), piece, offset));
    if (in_run) ++run;
    offset += piece.size();
    into = into.subspan(piece.size());
  }
  return {};
}

// A page that was copied in from a layer, or written with what it held already, is the mapping's own but no
// change: comparing costs less than storing it again and again.
Result<Changes> collect_changes(const MemoryView& parent, const vmm::ProcessMemory& memory, WhichPages which,
                                const std::string& scratch_directory) {
  auto writer = disk::LayerWriter::create(scratch_directory, memory.bytes());
  if (!writer) return std::move(writer).error();

  enum class Kind { same, zero, data };
  Changes changes;
  std::vector<std::byte> before(chunk_bytes);
  CUBE_TRY(for_each_chunk(
      memory, which, [&](std::uint64_t offset, std::span<const std::byte> now) -> Result<void> {
        CUBE_TRY(parent.read(offset, std::span(before).first(now.size())));
        const auto kind_of = [&](std::uint64_t at, std::span<const std::byte> page) {
          if (std::memcmp(page.data(), before.data() + (at - offset), page.size()) == 0) return Kind::same;
          return is_zero(page) ? Kind::zero : Kind::data;
        };
        return for_each_kind(
            offset, now, kind_of,
            [&](std::uint64_t at, std::span<const std::byte> run, Kind kind) -> Result<void> {
              if (kind == Kind::zero) return (*writer)->write_zeros(at, run.size());
              if (kind == Kind::data) return (*writer)->write(at, run);
              changes.unchanged_bytes += run.size();
              return {};
            });
      }));
  changes.layer = (*writer)->finish();
  return changes;
}

}  // namespace cube::snapshot
