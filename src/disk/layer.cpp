#include "disk/layer.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cube/disk.hpp>
#include <span>
#include <vector>

namespace cube::disk {
namespace {

static_assert(std::endian::native == std::endian::little, "layers are stored as they lie in memory");

constexpr std::array<char, 8> magic = {'C', 'U', 'B', 'E', 'L', 'A', 'Y', 'R'};
constexpr std::uint32_t version = 1;

struct Header {
  std::array<char, 8> magic{};
  std::uint32_t version = 0;
  std::uint32_t cluster_size = 0;
  std::uint64_t capacity = 0;
  std::uint64_t records_offset = 0;
  std::uint64_t record_count = 0;
  std::array<std::byte, 4052> reserved{};
  std::uint32_t checksum = 0;  // of everything before it, then of the records
};
static_assert(sizeof(Header) == layer_data_offset);

struct ChunkRecord {
  std::uint64_t index = 0;
  AllocationBitmap::Chunk bits{};
};
static_assert(sizeof(ChunkRecord) == 8 + sizeof(AllocationBitmap::Chunk));

std::uint32_t checksum(const Header& header, std::span<const ChunkRecord> records) {
  const auto before = std::as_bytes(std::span(&header, 1)).first(offsetof(Header, checksum));
  return crc32c(std::as_bytes(records), crc32c(before));
}

std::uint64_t clusters_of(std::uint64_t bytes) { return (bytes + cluster_size - 1) / cluster_size; }

Error corrupt(std::string reason) {
  return make_error(ErrorCode::corrupt, "disk layer: " + std::move(reason));
}

Result<void> check(const Header& header, std::uint64_t file_size, std::uint64_t disk_capacity) {
  if (header.magic != magic) return corrupt("it does not start as a layer does");
  if (header.version != version)
    return corrupt("format version " + std::to_string(header.version) + ", this program reads " +
                   std::to_string(version));
  if (header.cluster_size != cluster_size) return corrupt("unknown cluster size");
  if (header.capacity > disk_capacity) return corrupt("it was made for a larger disk");

  const std::uint64_t most_records = clusters_of(header.capacity) / AllocationBitmap::clusters_per_chunk + 1;
  if (header.record_count > most_records) return corrupt("more allocation records than its disk can have");
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
  if (allocated.end() > clusters) return corrupt("it holds clusters past its disk's end");
  if (header.records_offset != layer_data_offset + allocated.end() * cluster_size)
    return corrupt("its clusters and its size disagree");
  return allocated;
}

}  // namespace

Result<Layer> open_layer(Fd file, std::uint64_t capacity) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return os_error(errno, "cannot examine a disk layer");
  const auto file_size = static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || file_size < sizeof(Header)) return corrupt("too short to be one");

  Header header;
  CUBE_TRY(read_exactly(file.get(), std::as_writable_bytes(std::span(&header, 1)), 0));
  CUBE_TRY(check(header, file_size, capacity));

  std::vector<ChunkRecord> records(header.record_count);
  CUBE_TRY(read_exactly(file.get(), std::as_writable_bytes(std::span(records)), header.records_offset));
  if (header.checksum != checksum(header, records)) return corrupt("checksum mismatch");

  auto allocated = collect(records, header);
  if (!allocated) return std::move(allocated).error();
  return Layer{std::move(file), std::move(allocated).value()};
}

Result<void> seal_layer(const Layer& layer, std::uint64_t capacity) {
  std::vector<ChunkRecord> records;
  for (std::uint64_t index = 0; index < layer.allocated.chunk_slots(); ++index)
    if (const auto* bits = layer.allocated.chunk(index)) records.push_back({index, *bits});

  Header header;
  header.magic = magic;
  header.version = version;
  header.cluster_size = cluster_size;
  header.capacity = capacity;
  header.records_offset = layer_data_offset + layer.allocated.end() * cluster_size;
  header.record_count = records.size();
  header.checksum = checksum(header, records);

  const std::uint64_t size = header.records_offset + records.size() * sizeof(ChunkRecord);
  CUBE_TRY(write_exactly(layer.file.get(), std::as_bytes(std::span(records)), header.records_offset));
  if (::ftruncate(layer.file.get(), static_cast<off_t>(size)) != 0)
    return os_error(errno, "cannot set the size of a disk layer");
  return write_exactly(layer.file.get(), std::as_bytes(std::span(&header, 1)), 0);
}

}  // namespace cube::disk
