#include "disk/layer.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "disk/layer_file.hpp"

namespace cube::disk {

Result<void> StoredLayer::publish(int directory, const char* name) const {
  CUBE_TRY(make_durable());
  return file_->link(directory, name);
}

Result<void> StoredLayer::make_durable() const {
  const std::lock_guard lock(mutex_);
  if (state_ == State::durable) return {};
  CUBE_TRY(complete_layer_file(fd(), allocated_, capacity_));
  if (retry_interrupted([&] { return ::fchmod(fd(), 0400); }) != 0)
    return os_error(errno, "cannot protect a layer");
  CUBE_TRY(file_->sync());
  state_ = State::durable;
  return {};
}

Result<std::shared_ptr<const Layer>> Layer::open(std::shared_ptr<const SharedFile> file,
                                                 std::uint64_t capacity) {
  auto allocated = read_layer_file(file->fd(), capacity);
  if (!allocated) return std::move(allocated).error();
  return std::shared_ptr<const Layer>(std::make_shared<StoredLayer>(
      std::move(file), std::move(allocated).value(), capacity, StoredLayer::State::durable));
}

}  // namespace cube::disk
