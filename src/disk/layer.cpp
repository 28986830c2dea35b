#include "disk/layer.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace cube::disk {

Result<void> StoredLayer::publish(int directory, const char* name) const {
  CUBE_TRY(make_durable());
  return file_->link(directory, name);
}

Result<void> StoredLayer::make_durable() const {
  const std::lock_guard lock(mutex_);
  if (durable_) return {};
  CUBE_TRY(complete_layer_file(fd(), content_.allocated, capacity_));
  if (retry_interrupted([&] { return ::fchmod(fd(), 0400); }) != 0)
    return os_error(errno, "cannot protect a layer");
  CUBE_TRY(file_->sync());
  durable_ = true;
  return {};
}

Result<void> StoredLayer::verify() const {
  const std::lock_guard lock(mutex_);
  if (verified_) return {};
  CUBE_TRY(verify_layer_data(fd(), content_));
  verified_ = true;
  return {};
}

Result<std::shared_ptr<const Layer>> Layer::open(std::shared_ptr<const SharedFile> file,
                                                 std::uint64_t capacity) {
  auto content = read_layer_file(file->fd(), capacity);
  if (!content) return std::move(content).error();
  return std::shared_ptr<const Layer>(
      std::make_shared<StoredLayer>(std::move(file), std::move(*content), capacity));
}

}  // namespace cube::disk
