#include <unistd.h>

#include <cerrno>
#include <cube/disk.hpp>

#include "disk/vectored_io.hpp"

namespace cube::disk {
namespace {

class RawDisk final : public vmm::BlockBackend {
 public:
  RawDisk(Fd image, std::uint64_t capacity) : image_(std::move(image)), capacity_(capacity) {}

  std::uint64_t capacity_bytes() const override { return capacity_; }

  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    const auto length = check_request(offset, into, capacity_);
    if (!length) return length.error();
    return read_vectored(image_.get(), BufferCursor(into).take(*length), offset, disk_file);
  }

  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    const auto length = check_request(offset, from, capacity_);
    if (!length) return length.error();
    return write_vectored(image_.get(), BufferCursor(from).take(*length), offset, disk_file);
  }

  Result<void> flush() override {
    if (::fdatasync(image_.get()) != 0) return os_error(errno, "cannot sync a disk image");
    return {};
  }

 private:
  Fd image_;
  std::uint64_t capacity_;
};

}  // namespace

Result<std::unique_ptr<vmm::BlockBackend>> open_raw_disk(Fd image) {
  // Seeking finds the size of block devices too.
  const off_t size = ::lseek(image.get(), 0, SEEK_END);
  if (size < 0) return os_error(errno, "cannot find the size of a disk image");
  if (size == 0 || static_cast<std::uint64_t>(size) % sector_size != 0)
    return make_error(ErrorCode::invalid_argument, "a disk image is made of whole 512-byte sectors");
  return std::unique_ptr<vmm::BlockBackend>(
      std::make_unique<RawDisk>(std::move(image), static_cast<std::uint64_t>(size)));
}

}  // namespace cube::disk
