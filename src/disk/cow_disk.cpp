#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <cube/disk.hpp>
#include <optional>

#include "disk/layer.hpp"
#include "disk/layer_file.hpp"
#include "disk/vectored_io.hpp"

namespace cube::disk {
namespace {

class LayeredDisk final : public CowDisk {
 public:
  LayeredDisk(std::shared_ptr<const SharedFile> base, std::uint64_t base_size,
              std::vector<std::shared_ptr<const Layer>> layers, std::uint64_t capacity,
              std::string scratch_directory)
      : base_(std::move(base)),
        base_size_(base_size),
        layers_(std::move(layers)),
        capacity_(capacity),
        scratch_directory_(std::move(scratch_directory)) {}

  std::uint64_t capacity_bytes() const override { return capacity_; }

  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    const auto length = check_request(offset, into, capacity_);
    if (!length) return length.error();
    return read_range(offset, into, *length);
  }

  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override;

  /// Nothing to do: the top is scratch that ends with this process, so there is no crash it could survive.
  /// What must survive is synced when its layer is published.
  Result<void> flush() override { return {}; }

  std::vector<std::shared_ptr<const Layer>> freeze() override;
  void replace_oldest(std::size_t count, std::shared_ptr<const Layer> merged) override;

  std::uint64_t dirty_bytes() const override { return dirty_bytes_.load(std::memory_order_relaxed); }

 private:
  struct Top {
    std::shared_ptr<const SharedFile> file;
    AllocationBitmap allocated;
  };

  /// The file of the newest layer that holds the cluster, or none: the base, or nothing.
  std::optional<int> layer_file_of(std::uint64_t cluster) const;
  Result<void> read_range(std::uint64_t offset, std::span<const iovec> into, std::uint64_t length) const;
  Result<void> read_base(std::uint64_t offset, std::span<const iovec> into, std::uint64_t length) const;
  Result<void> ensure_top();

  std::shared_ptr<const SharedFile> base_;
  std::uint64_t base_size_;
  std::vector<std::shared_ptr<const Layer>> layers_;
  std::uint64_t capacity_;
  std::string scratch_directory_;
  std::optional<Top> top_;
  std::atomic<std::uint64_t> dirty_bytes_ = 0;  // read by other threads than the one that writes
};

std::optional<int> LayeredDisk::layer_file_of(std::uint64_t cluster) const {
  if (top_ && top_->allocated.contains(cluster)) return top_->file->fd();
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
    if ((*layer)->holds(cluster)) return (*layer)->fd();
  return std::nullopt;
}

// One preadv per run of neighbouring clusters that come from the same file.
Result<void> LayeredDisk::read_range(std::uint64_t offset, std::span<const iovec> into,
                                     std::uint64_t length) const {
  BufferCursor buffers(into);
  while (length > 0) {
    const std::uint64_t last = (offset + length - 1) / cluster_size;
    std::uint64_t cluster = offset / cluster_size;
    const std::optional<int> layer = layer_file_of(cluster);
    do ++cluster;
    while (cluster <= last && layer_file_of(cluster) == layer);

    const std::uint64_t count = std::min(length, cluster * cluster_size - offset);
    if (layer)
      CUBE_TRY(read_vectored(*layer, buffers.take(count), Layer::data_offset + offset, disk_file));
    else
      CUBE_TRY(read_base(offset, buffers.take(count), count));
    offset += count;
    length -= count;
  }
  return {};
}

Result<void> LayeredDisk::read_base(std::uint64_t offset, std::span<const iovec> into,
                                    std::uint64_t length) const {
  BufferCursor buffers(into);
  const std::uint64_t stored = offset < base_size_ ? std::min(length, base_size_ - offset) : 0;
  CUBE_TRY(read_vectored(base_->fd(), buffers.take(stored), offset, disk_file));
  for (const iovec& rest : buffers.take(length - stored)) std::memset(rest.iov_base, 0, rest.iov_len);
  return {};
}

// The top is indexed by position, so any write is one pwritev. At its two ends it is completed to whole
// clusters from below, unless the top holds the cluster already. Clusters are marked only when all is
// written: after a failure the old content is what is read.
Result<void> LayeredDisk::write(std::uint64_t offset, std::span<const iovec> from) {
  const auto length = check_request(offset, from, capacity_);
  if (!length) return length.error();
  if (*length == 0) return {};
  CUBE_TRY(ensure_top());

  const std::uint64_t end = offset + *length;
  const std::uint64_t first = offset / cluster_size;
  const std::uint64_t last = (end - 1) / cluster_size;
  const std::uint64_t before = top_->allocated.contains(first) ? 0 : offset - first * cluster_size;
  const std::uint64_t after = top_->allocated.contains(last) ? 0 : (last + 1) * cluster_size - end;

  std::array<std::byte, cluster_size> head;
  std::array<std::byte, cluster_size> tail;
  const iovec head_part{head.data(), before};
  const iovec tail_part{tail.data(), after};
  CUBE_TRY(read_range(offset - before, {&head_part, 1}, before));
  CUBE_TRY(read_range(end, {&tail_part, 1}, after));

  std::vector<iovec> parts;
  parts.reserve(from.size() + 2);
  parts.push_back(head_part);
  parts.insert(parts.end(), from.begin(), from.end());
  parts.push_back(tail_part);
  CUBE_TRY(write_vectored(top_->file->fd(), parts, Layer::data_offset + offset - before, disk_file));

  top_->allocated.insert(first, last - first + 1);
  dirty_bytes_.store(top_->allocated.count() * cluster_size, std::memory_order_relaxed);
  return {};
}

Result<void> LayeredDisk::ensure_top() {
  if (top_) return {};
  auto file = SharedFile::create(scratch_directory_);
  if (!file) return std::move(file).error();
  top_ = Top{std::move(file).value(), {}};
  return {};
}

std::vector<std::shared_ptr<const Layer>> LayeredDisk::freeze() {
  if (top_ && top_->allocated.count() > 0) {
    layers_.push_back(
        std::make_shared<StoredLayer>(std::move(top_->file), std::move(top_->allocated), capacity_));
    top_.reset();
    dirty_bytes_.store(0, std::memory_order_relaxed);
  }
  return layers_;
}

void LayeredDisk::replace_oldest(std::size_t count, std::shared_ptr<const Layer> merged) {
  const auto end = layers_.begin() + static_cast<std::ptrdiff_t>(std::min(count, layers_.size()));
  layers_.insert(layers_.erase(layers_.begin(), end), std::move(merged));
}

}  // namespace

Result<std::unique_ptr<CowDisk>> CowDisk::open(std::shared_ptr<const SharedFile> base,
                                               std::vector<std::shared_ptr<const Layer>> layers,
                                               std::uint64_t capacity, std::string scratch_directory) {
  if (capacity == 0 || capacity % sector_size != 0 || capacity > most_capacity)
    return make_error(ErrorCode::invalid_argument,
                      "a disk has whole 512-byte sectors, at most 8 TiB of them");
  const off_t base_size = ::lseek(base->fd(), 0, SEEK_END);
  if (base_size < 0) return os_error(errno, "cannot find the size of a disk's base image");
  if (static_cast<std::uint64_t>(base_size) > capacity)
    return make_error(ErrorCode::invalid_argument, "a disk cannot be smaller than its base image");
  return std::unique_ptr<CowDisk>(
      std::make_unique<LayeredDisk>(std::move(base), static_cast<std::uint64_t>(base_size), std::move(layers),
                                    capacity, std::move(scratch_directory)));
}

}  // namespace cube::disk
