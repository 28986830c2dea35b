#include "disk/layer_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cube/disk.hpp>
#include <span>
#include <vector>

#include "disk/sparse_file.hpp"

namespace cube::disk {
namespace {

static_assert(std::endian::native == std::endian::little, "layers are stored as they lie in memory");

constexpr std::array<char, 8> magic = {'C', 'U', 'B', 'E', 'L', 'A', 'Y', 'R'};
constexpr std::uint32_t version = 2;

struct Header {
  std::array<char, 8> magic{};
  std::uint32_t version = 0;
  std::uint32_t cluster_size = 0;
  std::uint64_t capacity = 0;
  std::uint64_t records_offset = 0;
  std::uint64_t record_count = 0;
  std::uint32_t data_crc32c = 0;  // of the clusters held
  std::array<std::byte, 4048> reserved{};
  std::uint32_t crc32c = 0;  // of everything before it, then of the records
};
static_assert(sizeof(Header) == Layer::data_offset);

struct ChunkRecord {
  std::uint64_t index = 0;
  AllocationBitmap::Chunk bits{};
};
static_assert(sizeof(ChunkRecord) == 8 + sizeof(AllocationBitmap::Chunk));

std::uint32_t checksum(const Header& header, std::span<const ChunkRecord> records) {
  const auto before = std::as_bytes(std::span(&header, 1)).first(offsetof(Header, crc32c));
  return crc32c(std::as_bytes(records), crc32c(before));
}

Result<std::uint32_t> checksum_data(int fd, const AllocationBitmap& allocated) {
  Result<std::uint32_t> sum = 0u;
  allocated.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    const std::uint64_t offset = Layer::data_offset + first * cluster_size;
    if (sum) sum = checksum_range(fd, offset, offset + count * cluster_size, *sum);
  });
  return sum;
}

std::uint64_t records_offset_of(const AllocationBitmap& allocated) {
  return Layer::data_offset + allocated.end() * cluster_size;
}

Error corrupt(std::string reason) { return make_error(ErrorCode::corrupt, "layer: " + std::move(reason)); }

Result<void> check(const Header& header, std::uint64_t file_size, std::uint64_t capacity) {
  if (header.magic != magic) return corrupt("it does not start as a layer does");
  if (header.version != version)
    return corrupt("format version " + std::to_string(header.version) + ", this program reads " +
                   std::to_string(version));
  if (header.cluster_size != cluster_size) return corrupt("unknown cluster size");
  if (header.capacity > capacity) return corrupt("it was made for a larger disk or memory");

  const std::uint64_t most_records = clusters_of(header.capacity) / AllocationBitmap::clusters_per_chunk + 1;
  if (header.record_count > most_records)
    return corrupt("more allocation records than its capacity can have");
  if (header.records_offset > file_size ||
      file_size - header.records_offset != header.record_count * sizeof(ChunkRecord))
    return corrupt("file size and header disagree");
  return {};
}

Result<AllocationBitmap> collect(std::span<const ChunkRecord> records, const Header& header) {
  AllocationBitmap allocated;
  const std::uint64_t clusters = clusters_of(header.capacity);
  const ChunkRecord* previous = nullptr;
  for (const ChunkRecord& record : records) {
    if (record.index > clusters / AllocationBitmap::clusters_per_chunk ||
        (previous && record.index <= previous->index))
      return corrupt("allocation records out of order");
    allocated.insert_chunk(record.index, record.bits);
    previous = &record;
  }
  if (allocated.end() > clusters) return corrupt("it holds clusters past its capacity");
  if (header.records_offset != records_offset_of(allocated))
    return corrupt("its clusters and its size disagree");
  return allocated;
}

}  // namespace

std::uint64_t clusters_of(std::uint64_t capacity) { return (capacity + cluster_size - 1) / cluster_size; }

Result<LayerFile> read_layer_file(int fd, std::uint64_t capacity) {
  if (capacity > most_capacity)
    return make_error(ErrorCode::invalid_argument, "a disk or memory of more than 8 TiB has no layers");
  struct stat status {};
  if (::fstat(fd, &status) != 0) return os_error(errno, "cannot examine a layer");
  const auto file_size = static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || file_size < sizeof(Header)) return corrupt("too short to be one");

  Header header;
  CUBE_TRY(read_exactly(fd, std::as_writable_bytes(std::span(&header, 1)), 0));
  CUBE_TRY(check(header, file_size, capacity));

  std::vector<ChunkRecord> records(header.record_count);
  CUBE_TRY(read_exactly(fd, std::as_writable_bytes(std::span(records)), header.records_offset));
  if (header.crc32c != checksum(header, records)) return corrupt("checksum mismatch");

  auto allocated = collect(records, header);
  if (!allocated) return std::move(allocated).error();
  return LayerFile{std::move(*allocated), header.data_crc32c};
}

Result<void> verify_layer_data(int fd, const LayerFile& expected) {
  // What is scattered is read ahead in one go; only a hint.
  expected.allocated.for_each_run([&](std::uint64_t first, std::uint64_t count) {
    ::posix_fadvise(fd, static_cast<off_t>(Layer::data_offset + first * cluster_size),
                    static_cast<off_t>(count * cluster_size), POSIX_FADV_WILLNEED);
  });
  const auto data_crc32c = checksum_data(fd, expected.allocated);
  if (!data_crc32c) return data_crc32c.error();
  if (*data_crc32c != expected.data_crc32c) return corrupt("checksum mismatch in its data");
  return {};
}

Result<void> complete_layer_file(int fd, const AllocationBitmap& allocated, std::uint64_t capacity) {
  const auto data_crc32c = checksum_data(fd, allocated);
  if (!data_crc32c) return data_crc32c.error();
  std::vector<ChunkRecord> records;
  for (std::uint64_t index = 0; index < allocated.chunk_slots(); ++index)
    if (const auto* bits = allocated.chunk(index)) records.push_back({index, *bits});

  Header header;
  header.magic = magic;
  header.version = version;
  header.cluster_size = cluster_size;
  header.capacity = capacity;
  header.records_offset = records_offset_of(allocated);
  header.record_count = records.size();
  header.data_crc32c = *data_crc32c;
  header.crc32c = checksum(header, records);

  const std::uint64_t size = header.records_offset + records.size() * sizeof(ChunkRecord);
  CUBE_TRY(write_exactly(fd, std::as_bytes(std::span(records)), header.records_offset));
  if (retry_interrupted([&] { return ::ftruncate(fd, static_cast<off_t>(size)); }) != 0)
    return os_error(errno, "cannot set the size of a layer");
  return write_exactly(fd, std::as_bytes(std::span(&header, 1)), 0);
}

}  // namespace cube::disk
