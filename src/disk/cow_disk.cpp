#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <cube/disk.hpp>
#include <optional>

#include "disk/layer.hpp"
#include "disk/unnamed_file.hpp"
#include "disk/vectored_io.hpp"

namespace cube::disk {
namespace {

constexpr std::uint64_t most_capacity = 16ull << 40;  // ext4's largest file with 4 KiB blocks

class LayeredDisk final : public CowDisk {
 public:
  LayeredDisk(Fd base, std::uint64_t base_size, std::vector<Layer> layers, std::uint64_t capacity,
              std::string directory)
      : base_(std::move(base)),
        base_size_(base_size),
        layers_(std::move(layers)),
        capacity_(capacity),
        directory_(std::move(directory)) {}

  std::uint64_t capacity_bytes() const override { return capacity_; }

  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    const auto length = check_request(offset, into, capacity_);
    if (!length) return length.error();
    return read_range(offset, into, *length);
  }

  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override;

  /// Nothing to do: the top is scratch that ends with this process, so there is no crash it could survive.
  /// What must survive is synced by freeze().
  Result<void> flush() override { return {}; }

  Result<void> freeze(const std::string& path) override;

  std::uint64_t dirty_bytes() const override { return dirty_bytes_.load(std::memory_order_relaxed); }

 private:
  /// The newest layer that holds the cluster, or nullptr: the base, or nothing.
  const Layer* layer_of(std::uint64_t cluster) const;
  Result<void> read_range(std::uint64_t offset, std::span<const iovec> into, std::uint64_t length) const;
  Result<void> read_base(std::uint64_t offset, std::span<const iovec> into, std::uint64_t length) const;
  Result<void> ensure_top();
  Result<void> publish_top(const std::string& path);

  Fd base_;
  std::uint64_t base_size_;
  std::vector<Layer> layers_;
  std::uint64_t capacity_;
  std::string directory_;
  std::optional<Layer> top_;
  bool sync_failed_ = false;
  std::atomic<std::uint64_t> dirty_bytes_ = 0;  // read by other threads than the one that writes
};

const Layer* LayeredDisk::layer_of(std::uint64_t cluster) const {
  if (top_ && top_->allocated.contains(cluster)) return &*top_;
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
    if (layer->allocated.contains(cluster)) return &*layer;
  return nullptr;
}

// One preadv per run of neighbouring clusters that come from the same file.
Result<void> LayeredDisk::read_range(std::uint64_t offset, std::span<const iovec> into,
                                     std::uint64_t length) const {
  BufferCursor buffers(into);
  while (length > 0) {
    const std::uint64_t last = (offset + length - 1) / cluster_size;
    std::uint64_t cluster = offset / cluster_size;
    const Layer* source = layer_of(cluster);
    do ++cluster;
    while (cluster <= last && layer_of(cluster) == source);

    const std::uint64_t count = std::min(length, cluster * cluster_size - offset);
    if (source)
      CUBE_TRY(read_vectored(source->file.get(), buffers.take(count), layer_data_offset + offset));
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
  CUBE_TRY(read_vectored(base_.get(), buffers.take(stored), offset));
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
  CUBE_TRY(write_vectored(top_->file.get(), parts, layer_data_offset + offset - before));

  top_->allocated.insert(first, last);
  dirty_bytes_.store(top_->allocated.count() * cluster_size, std::memory_order_relaxed);
  return {};
}

Result<void> LayeredDisk::ensure_top() {
  if (top_) return {};
  auto file = open_unnamed_file(directory_);
  if (!file) return std::move(file).error();
  top_.emplace(std::move(file).value(), AllocationBitmap());
  return {};
}

Result<void> LayeredDisk::freeze(const std::string& path) {
  CUBE_TRY(ensure_top());
  CUBE_TRY(publish_top(path));
  if (top_->allocated.count() > 0) layers_.push_back(std::move(*top_));
  top_.reset();
  dirty_bytes_.store(0, std::memory_order_relaxed);
  return {};
}

Result<void> LayeredDisk::publish_top(const std::string& path) {
  // The kernel reports a failed write-back once; a later fsync would succeed over lost data.
  if (sync_failed_)
    return make_error(ErrorCode::internal,
                      "an earlier sync of this disk's top layer failed: it cannot be kept", path);
  CUBE_TRY(seal_layer(*top_, capacity_));
  if (::fchmod(top_->file.get(), 0400) != 0) return os_error(errno, "cannot protect a disk layer", path);
  if (::fsync(top_->file.get()) != 0) {
    sync_failed_ = true;
    return os_error(errno, "cannot sync a disk layer", path);
  }
  return link_unnamed_file(top_->file.get(), path);
}

}  // namespace

Result<std::unique_ptr<CowDisk>> CowDisk::open(Fd base, std::vector<Fd> layers, std::uint64_t capacity,
                                               std::string directory) {
  if (capacity == 0 || capacity % sector_size != 0 || capacity > most_capacity)
    return make_error(ErrorCode::invalid_argument,
                      "a disk has whole 512-byte sectors, at most 16 TiB of them");
  // Seeking finds the size of block devices too.
  const off_t base_size = ::lseek(base.get(), 0, SEEK_END);
  if (base_size < 0) return os_error(errno, "cannot find the size of a disk's base image");
  if (static_cast<std::uint64_t>(base_size) > capacity)
    return make_error(ErrorCode::invalid_argument, "a disk cannot be smaller than its base image");

  std::vector<Layer> opened;
  for (Fd& file : layers) {
    auto layer = open_layer(std::move(file), capacity);
    if (!layer) return std::move(layer).error();
    opened.push_back(std::move(layer).value());
  }
  return std::unique_ptr<CowDisk>(
      std::make_unique<LayeredDisk>(std::move(base), static_cast<std::uint64_t>(base_size), std::move(opened),
                                    capacity, std::move(directory)));
}

}  // namespace cube::disk
