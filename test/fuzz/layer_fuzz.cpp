// Layer files that are damaged or forged: input bytes become a layer that is published, then changes to its
// file, whose header checksum is made right again most often. What opens must be readable to its last
// cluster.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <cube/disk.hpp>
#include <filesystem>
#include <string>
#include <vector>

using namespace cube;
using namespace cube::disk;

namespace {

constexpr std::uint64_t capacity = (300ull << 20) + 512;  // three records; ends inside a cluster
constexpr std::uint64_t clusters = capacity / cluster_size + 1;
constexpr std::uint64_t header_bytes = Layer::data_offset;

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  template <class T>
  T number() {
    T value{};
    const auto taken = rest_.substr(0, sizeof value);
    std::memcpy(&value, taken.data(), taken.size());
    rest_.remove_prefix(taken.size());
    return value;
  }

 private:
  std::string_view rest_;
};

struct Scratch {
  std::string path = "/dev/shm/cube-layer-fuzz-XXXXXX";
  Scratch() {
    if (!::mkdtemp(path.data())) std::abort();
  }
  ~Scratch() { std::filesystem::remove_all(path); }
};

void require(bool holds) {
  if (!holds) __builtin_trap();
}

template <class T>
T unwrap(Result<T> result) {
  require(result.ok());
  return std::move(result).value();
}

std::shared_ptr<const Layer> build(Input& input, const std::string& scratch) {
  auto writer = unwrap(LayerWriter::create(scratch, capacity));
  for (auto count = input.number<std::uint8_t>() % 8; count > 0; --count) {
    const std::uint64_t first = input.number<std::uint32_t>() % clusters;
    const std::uint64_t length = std::min<std::uint64_t>(input.number<std::uint8_t>() % 8, clusters - first);
    const std::vector<std::byte> data(length * cluster_size, std::byte{input.number<std::uint8_t>()});
    require((data.empty() || data[0] != std::byte{0} ? writer->write(first * cluster_size, data)
                                                     : writer->write_zeros(first * cluster_size, data.size()))
                .ok());
  }
  return writer->finish();
}

/// Changes header, records, data or size; keeps the header's checksum right or breaks it.
void damage(int fd, Input& input) {
  struct stat status {};
  require(::fstat(fd, &status) == 0);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  std::uint64_t records_offset = 0;
  require(read_exactly(fd, std::as_writable_bytes(std::span(&records_offset, 1)), 24).ok());
  while (!input.empty()) {
    const auto where = input.number<std::uint8_t>();
    const auto position = input.number<std::uint16_t>();
    const auto value = input.number<std::uint64_t>();
    const auto length = 1 + (where >> 4) % 8u;
    std::uint64_t at = position % 64;                                        // the header
    if (where % 4 == 1) at = records_offset + position;                      // the records
    if (where % 4 == 2) at = header_bytes + position * std::uint64_t{4096};  // data
    if (where % 4 == 3 && value % 4 == 0) {
      require(::ftruncate(fd, static_cast<off_t>(size + 4104 - position % 8208)) == 0);
      continue;
    }
    require(write_exactly(fd, std::as_bytes(std::span(&value, 1)).first(length), at).ok());
  }
}

void repair_checksum(int fd) {
  struct stat status {};
  require(::fstat(fd, &status) == 0);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  std::vector<std::byte> header(header_bytes - 4);
  std::uint64_t records_offset = 0;
  if (size < header_bytes) return;
  require(read_exactly(fd, header, 0).ok());
  std::memcpy(&records_offset, header.data() + 24, 8);
  if (records_offset > size || size - records_offset > 1 << 20) return;
  std::vector<std::byte> records(size - records_offset);
  require(read_exactly(fd, records, records_offset).ok());
  const std::uint32_t sum = crc32c(records, crc32c(header));
  require(write_exactly(fd, std::as_bytes(std::span(&sum, 1)), header_bytes - 4).ok());
}

/// Everything an opened layer says can be relied on.
void use(const std::shared_ptr<const Layer>& layer, const std::string& scratch) {
  auto disk = unwrap(CowDisk::open(unwrap(SharedFile::create(scratch)), {layer}, capacity, scratch));
  std::vector<std::byte> buffer(1 << 16);
  std::uint64_t held = 0;
  layer->for_each_run([&](std::uint64_t first, std::uint64_t count) {
    require(count > 0 && first < clusters && count <= clusters - first);
    held += count;
    const std::uint64_t end = std::min(capacity, (first + count) * cluster_size);
    const iovec last{buffer.data(), std::min(buffer.size(), end - first * cluster_size)};
    require(disk->read(end - last.iov_len, {&last, 1}).ok());
  });
  require(held == layer->held_clusters());
  require(unwrap(merge_layers({&layer, 1}, scratch, capacity))->held_clusters() == held);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Scratch scratch;
  static const Fd directory = unwrap(open_file(scratch.path, O_RDONLY | O_DIRECTORY));
  Input input(data, size);
  const bool repairs = input.number<std::uint8_t>() % 4 != 0;
  const auto layer = build(input, scratch.path);
  require(layer->publish(directory.get(), "layer").ok());
  auto file = unwrap(SharedFile::adopt(unwrap(open_file(scratch.path + "/layer", O_RDONLY)), scratch.path));
  require(::unlink((scratch.path + "/layer").c_str()) == 0);
  use(unwrap(Layer::open(file, capacity)), scratch.path);

  damage(layer->fd(), input);
  if (repairs) repair_checksum(layer->fd());
  const auto opened = Layer::open(file, capacity);
  require(opened.ok() || opened.error().code == ErrorCode::corrupt);
  if (!opened) return 0;
  const auto verified = (*opened)->verify();
  require(verified.ok() || verified.error().code == ErrorCode::corrupt);
  use(*opened, scratch.path);
  return 0;
}
