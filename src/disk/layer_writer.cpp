#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cube/disk.hpp>

#include "disk/layer.hpp"
#include "disk/layer_file.hpp"

namespace cube::disk {
namespace {

class StoredLayerWriter final : public LayerWriter {
 public:
  StoredLayerWriter(std::shared_ptr<const SharedFile> file, std::uint64_t capacity)
      : file_(std::move(file)), capacity_(capacity) {}

  Result<void> write(std::uint64_t offset, std::span<const std::byte> data) override {
    CUBE_TRY(check(offset, data.size()));
    written_end_ = std::max(written_end_, offset + data.size());
    CUBE_TRY(write_exactly(file_->fd(), data, Layer::data_offset + offset));
    allocated_.insert(offset / cluster_size, data.size() / cluster_size);
    return {};
  }

  Result<void> write_zeros(std::uint64_t offset, std::uint64_t length) override {
    CUBE_TRY(check(offset, length));
    if (offset < written_end_) CUBE_TRY(punch(offset, std::min(length, written_end_ - offset)));
    allocated_.insert(offset / cluster_size, length / cluster_size);
    return {};
  }

  std::shared_ptr<const Layer> finish() override {
    return std::make_shared<StoredLayer>(std::move(file_), std::move(allocated_), capacity_);
  }

 private:
  Result<void> check(std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t end = clusters_of(capacity_) * cluster_size;
    if (offset % cluster_size != 0 || length % cluster_size != 0 || offset > end || length > end - offset)
      return make_error(ErrorCode::invalid_argument, "not whole clusters inside the layer's capacity");
    return {};
  }

  Result<void> punch(std::uint64_t offset, std::uint64_t length) const {
    const auto at = static_cast<off_t>(Layer::data_offset + offset);
    if (retry_interrupted([&] {
          return ::fallocate(file_->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                             static_cast<off_t>(length));
        }) != 0)
      return os_error(errno, "cannot punch a hole into a layer");
    return {};
  }

  std::shared_ptr<const SharedFile> file_;
  AllocationBitmap allocated_;
  std::uint64_t capacity_;
  std::uint64_t written_end_ = 0;  // behind it is nothing but a hole, whatever writes failed
};

}  // namespace

Result<std::unique_ptr<LayerWriter>> LayerWriter::create(const std::string& scratch_directory,
                                                         std::uint64_t capacity) {
  if (capacity > most_capacity)
    return make_error(ErrorCode::invalid_argument, "a disk or memory of more than 8 TiB has no layers");
  auto file = SharedFile::create(scratch_directory);
  if (!file) return std::move(file).error();
  // Zeros at the end are held without being written; they are to lie inside the file, too.
  const std::uint64_t size = Layer::data_offset + clusters_of(capacity) * cluster_size;
  if (retry_interrupted([&] { return ::ftruncate((*file)->fd(), static_cast<off_t>(size)); }) != 0)
    return os_error(errno, "cannot set the size of a layer");
  return std::unique_ptr<LayerWriter>(std::make_unique<StoredLayerWriter>(std::move(file).value(), capacity));
}

}  // namespace cube::disk
