#include "snapshot/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "snapshot/memory_image.hpp"
#include "snapshot/metadata.hpp"
#include "snapshot/publication.hpp"

namespace cube::snapshot {
namespace {

constexpr const char* metadata_name = "snapshot.json";
constexpr const char* state_name = "state";
constexpr const char* memory_name = "memory";
constexpr const char* disk_name = "disk";

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

struct OpenedFile {
  Fd fd;
  std::uint64_t size = 0;
};

// Never through a symbolic link, and never waiting for one end of a pipe.
Result<OpenedFile> open_inside(int directory, const char* name) {
  Fd file(::openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!file && (errno == ENOENT || errno == ELOOP || errno == ENXIO))
    return make_error(ErrorCode::corrupt, "missing or not a regular file", name);
  if (!file) return os_error(errno, "cannot open", name);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return os_error(errno, "cannot examine", name);
  if (!S_ISREG(status.st_mode)) return make_error(ErrorCode::corrupt, "missing or not a regular file", name);
  return OpenedFile{std::move(file), static_cast<std::uint64_t>(status.st_size)};
}

Result<std::string> read_inside(int directory, const char* name, std::uint64_t most_bytes) {
  const auto file = open_inside(directory, name);
  if (!file) return file.error();
  if (file->size > most_bytes) return make_error(ErrorCode::corrupt, "too large", name);
  std::string content(file->size, '\0');
  CUBE_TRY(read_exactly(file->fd.get(), std::as_writable_bytes(std::span(content)), 0));
  return content;
}

/// A new file in the directory, filled by `fill(fd)` and synced. Read-only for everyone once it exists.
template <class Fill>
Result<void> write_inside(int directory, const char* name, Fill fill) {
  Fd file(::openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
  if (!file) return os_error(errno, "cannot create", name);
  if (Result<void> filled = fill(file.get()); !filled) {
    filled.error().object = name;
    return filled;
  }
  if (::fsync(file.get()) != 0) return os_error(errno, "cannot sync", name);
  return {};
}

Result<void> link_disk(int directory, const std::string& disk_path, std::uint64_t capacity) {
  if (::linkat(AT_FDCWD, disk_path.c_str(), directory, disk_name, 0) != 0) {
    if (errno == EXDEV)
      return make_error(ErrorCode::invalid_argument,
                        "the disk image lies on another file system than the snapshot", disk_path);
    return os_error(errno, "cannot link the disk image", disk_path);
  }
  const auto disk = open_inside(directory, disk_name);
  if (!disk)
    return make_error(ErrorCode::invalid_argument, "the disk image is no readable regular file", disk_path);
  if (disk->size > capacity)
    return make_error(ErrorCode::invalid_argument, "the disk image is larger than the machine's disk",
                      disk_path);
  if (::fsync(disk->fd.get()) != 0) return os_error(errno, "cannot sync the disk image", disk_path);
  return {};
}

Result<void> fill_directory(int directory, const Metadata& metadata, const vmm::MachineState& state,
                            std::span<const std::span<const std::byte>> memory,
                            const std::string& disk_path) {
  CUBE_TRY(link_disk(directory, disk_path, metadata.shape.disk_bytes));
  CUBE_TRY(write_inside(directory, state_name,
                        [&](int fd) { return write_exactly(fd, bytes_of(state.bytes), 0); }));
  CUBE_TRY(write_inside(directory, memory_name, [&](int fd) { return write_memory_image(fd, memory); }));
  const std::string json = to_json(metadata);
  return write_inside(directory, metadata_name, [&](int fd) { return write_exactly(fd, bytes_of(json), 0); });
}

Result<Files> open_checked(int directory) {
  const auto json = read_inside(directory, metadata_name, most_metadata_bytes);
  if (!json) return json.error();
  const auto metadata = parse_metadata(*json);
  if (!metadata) return metadata.error();

  auto state = read_inside(directory, state_name, most_state_bytes);
  if (!state) return std::move(state).error();
  if (state->size() != metadata->state_bytes || crc32c(bytes_of(*state)) != metadata->state_crc32c)
    return make_error(ErrorCode::corrupt, "size or checksum mismatch", state_name);

  auto memory = open_inside(directory, memory_name);
  if (!memory) return std::move(memory).error();
  if (memory->size != metadata->shape.memory_bytes)
    return make_error(ErrorCode::corrupt, "its size is not that of the machine's memory", memory_name);

  auto disk = open_inside(directory, disk_name);
  if (!disk) return std::move(disk).error();
  if (disk->size > metadata->shape.disk_bytes)
    return make_error(ErrorCode::corrupt, "larger than the machine's disk", disk_name);

  return Files{metadata->shape, {std::move(state).value()}, std::move(memory->fd), std::move(disk->fd)};
}

}  // namespace

Result<Files> open_files(const std::string& directory) {
  const auto handle = open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!handle) return handle.error();
  auto files = open_checked(handle->get());
  if (!files) files.error().object = directory + "/" + files.error().object;
  return files;
}

Result<void> write_files(const std::string& directory, const Shape& shape, const vmm::MachineState& state,
                         std::span<const std::span<const std::byte>> memory, const std::string& disk_path) {
  CUBE_TRY(check_shape(shape));
  std::uint64_t memory_bytes = 0;
  for (const auto region : memory) memory_bytes += region.size();
  if (memory_bytes != shape.memory_bytes)
    return make_error(ErrorCode::invalid_argument, "shape and machine disagree on the size of memory",
                      directory);
  if (state.bytes.empty() || state.bytes.size() > most_state_bytes)
    return make_error(ErrorCode::invalid_argument, "no machine's state has that size", directory);

  auto pending = PendingDirectory::create(directory);
  if (!pending) return std::move(pending).error();
  const Metadata metadata{shape, state.bytes.size(), crc32c(bytes_of(state.bytes))};
  CUBE_TRY(fill_directory(pending->fd(), metadata, state, memory, disk_path));
  return pending->publish();
}

}  // namespace cube::snapshot
