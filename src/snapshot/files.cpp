#include "snapshot/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "snapshot/metadata.hpp"

namespace cube::snapshot {
namespace {

constexpr const char* metadata_name = "snapshot.json";
constexpr const char* state_name = "state";
constexpr const char* memory_name = "memory";
constexpr const char* disk_name = "disk";

std::string layer_name(const char* base, std::size_t index) {
  return base + ("." + std::to_string(index + 1));
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

Error with_object(Error error, std::string object) {
  error.object = std::move(object);
  return error;
}

/// `operation(layer, name)` on each in turn; an error is about the file of that name.
template <class Operation>
Result<void> for_each_layer(const char* base, const Layers& layers, Operation operation) {
  for (std::size_t index = 0; index < layers.size(); ++index) {
    const std::string name = layer_name(base, index);
    if (auto done = operation(*layers[index], name); !done) return with_object(std::move(done).error(), name);
  }
  return {};
}

struct OpenedFile {
  Fd fd;
  std::uint64_t size = 0;
};

// Never through a symbolic link, and never waiting for one end of a pipe.
Result<OpenedFile> open_inside(int directory, const std::string& name) {
  Fd file(::openat(directory, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
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

/// Everything about one directory's files that both bases and layers need.
class Opening {
 public:
  Opening(int directory, const std::string& scratch) : directory_(directory), scratch_(scratch) {}

  /// `check(size)` says what is wrong with the file's size, or nothing.
  template <class Check>
  Result<FilePtr> base(const char* name, Check check) const {
    auto file = open_inside(directory_, name);
    if (!file) return std::move(file).error();
    if (const char* wrong = check(file->size)) return make_error(ErrorCode::corrupt, wrong, name);
    auto shared = disk::SharedFile::adopt(std::move(file->fd), scratch_, disk::SharedFile::State::durable);
    if (!shared) return with_object(std::move(shared).error(), name);
    return shared;
  }

  Result<Layers> layers(const char* base, std::size_t count, std::uint64_t capacity) const {
    Layers opened;
    for (std::size_t index = 0; index < count; ++index) {
      const std::string name = layer_name(base, index);
      auto file = open_inside(directory_, name);
      if (!file) return std::move(file).error();
      auto shared = disk::SharedFile::adopt(std::move(file->fd), scratch_, disk::SharedFile::State::durable);
      if (!shared) return with_object(std::move(shared).error(), name);
      auto layer = disk::Layer::open(std::move(*shared), capacity);
      if (!layer) return with_object(std::move(layer).error(), name);
      opened.push_back(std::move(*layer));
    }
    return opened;
  }

 private:
  int directory_;
  const std::string& scratch_;
};

Result<Files> open_checked(int directory, const std::string& scratch) {
  const auto json = read_inside(directory, metadata_name, most_metadata_bytes);
  if (!json) return json.error();
  const auto metadata = parse_metadata(*json);
  if (!metadata) return metadata.error();
  const Opening opening(directory, scratch);

  Files files;
  files.shape = metadata->shape;
  if (metadata->state_bytes > 0) {
    auto state = read_inside(directory, state_name, most_state_bytes);
    if (!state) return std::move(state).error();
    if (state->size() != metadata->state_bytes || crc32c(bytes_of(*state)) != metadata->state_crc32c)
      return make_error(ErrorCode::corrupt, "size or checksum mismatch", state_name);
    files.state.bytes = std::move(*state);

    auto memory = opening.base(memory_name, [&](std::uint64_t size) {
      return size == files.shape.memory_bytes ? nullptr : "its size is not that of the machine's memory";
    });
    if (!memory) return std::move(memory).error();
    files.memory = std::move(*memory);
    files.memory_crc32c = metadata->memory_crc32c;
    auto layers = opening.layers(memory_name, metadata->memory_layers, files.shape.memory_bytes);
    if (!layers) return std::move(layers).error();
    files.memory_layers = std::move(*layers);
  }
  auto disk = opening.base(disk_name, [&](std::uint64_t size) {
    return size <= files.shape.disk_bytes ? nullptr : "larger than the machine's disk";
  });
  if (!disk) return std::move(disk).error();
  files.disk = std::move(*disk);
  auto layers = opening.layers(disk_name, metadata->disk_layers, files.shape.disk_bytes);
  if (!layers) return std::move(layers).error();
  files.disk_layers = std::move(*layers);
  return files;
}

/// A new file in the directory, read-only and synced.
Result<void> write_inside(int directory, const char* name, std::string_view content) {
  Fd file(retry_interrupted(
      [&] { return ::openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400); }));
  if (!file) return os_error(errno, "cannot create", name);
  if (auto written = write_exactly(file.get(), bytes_of(content), 0); !written)
    return with_object(std::move(written).error(), name);
  if (retry_interrupted([&] { return ::fsync(file.get()); }) != 0)
    return os_error(errno, "cannot sync", name);
  return {};
}

Result<void> name_all(int directory, const char* base_name, const FilePtr& base, const Layers& layers) {
  if (auto synced = base->sync(); !synced) return with_object(std::move(synced).error(), base_name);
  CUBE_TRY(base->link(directory, base_name));
  return for_each_layer(base_name, layers, [&](const disk::Layer& layer, const std::string& name) {
    return layer.publish(directory, name.c_str());
  });
}

}  // namespace

Result<void> verify_layers(const Files& files) {
  const auto verify = [](const disk::Layer& layer, const std::string&) { return layer.verify(); };
  CUBE_TRY(for_each_layer(memory_name, files.memory_layers, verify));
  return for_each_layer(disk_name, files.disk_layers, verify);
}

Result<Files> open_files(const std::string& directory, const std::string& scratch_directory) {
  const auto handle = open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!handle) return handle.error();
  auto files = open_checked(handle->get(), scratch_directory);
  if (!files) files.error().object = directory + "/" + files.error().object;
  return files;
}

Result<void> fill_directory(const PendingDirectory& directory, const Files& files) {
  Metadata metadata;
  metadata.shape = files.shape;
  metadata.state_bytes = files.state.bytes.size();
  metadata.state_crc32c = files.memory ? crc32c(bytes_of(files.state.bytes)) : 0;
  metadata.memory_crc32c = files.memory_crc32c;
  metadata.memory_layers = files.memory_layers.size();
  metadata.disk_layers = files.disk_layers.size();
  CUBE_TRY(check_metadata(metadata));

  CUBE_TRY(name_all(directory.fd(), disk_name, files.disk, files.disk_layers));
  if (files.memory) {
    CUBE_TRY(name_all(directory.fd(), memory_name, files.memory, files.memory_layers));
    CUBE_TRY(write_inside(directory.fd(), state_name, files.state.bytes));
  }
  return write_inside(directory.fd(), metadata_name, to_json(metadata));
}

}  // namespace cube::snapshot
