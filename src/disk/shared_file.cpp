#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cube/disk.hpp>
#include <filesystem>
#include <string_view>

namespace cube::disk {
namespace {

constexpr std::string_view scratch_prefix = ".shared-";
constexpr std::size_t random_length = 16;

std::string new_scratch_path(const std::string& directory) {
  return directory + "/" + std::string(scratch_prefix) + random_lowercase(random_length);
}

bool is_scratch_name(std::string_view name) {
  return name.starts_with(scratch_prefix) && name.size() == scratch_prefix.size() + random_length &&
         is_lowercase(name.substr(scratch_prefix.size()));
}

Result<void> link_file(const std::string& from, int directory, const std::string& to, int flags) {
  if (retry_interrupted([&] { return ::linkat(AT_FDCWD, from.c_str(), directory, to.c_str(), flags); }) == 0)
    return {};
  if (errno == EXDEV)
    return make_error(
        ErrorCode::invalid_argument,
        "a file cannot have names on two file systems or mounts: keep snapshots and scratch on one", to);
  return os_error(errno, "cannot give a file one more name", to);
}

}  // namespace

SharedFile::SharedFile(Fd file, std::string scratch_path, State state)
    : file_(std::move(file)), scratch_path_(std::move(scratch_path)), state_(state) {}

SharedFile::~SharedFile() { ::unlink(scratch_path_.c_str()); }

Result<std::shared_ptr<const SharedFile>> SharedFile::create(const std::string& scratch_directory) {
  const std::string path = new_scratch_path(scratch_directory);
  auto file = open_file(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
  if (!file) return std::move(file).error();
  return std::shared_ptr<const SharedFile>(new SharedFile(std::move(file).value(), path, State::written));
}

Result<std::shared_ptr<const SharedFile>> SharedFile::adopt(Fd file, const std::string& scratch_directory,
                                                            State state) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return os_error(errno, "cannot examine a file");
  if (!S_ISREG(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "only a regular file can be shared");

  // Through /proc, because AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH (open(2), O_TMPFILE).
  const std::string path = new_scratch_path(scratch_directory);
  CUBE_TRY(link_file("/proc/self/fd/" + std::to_string(file.get()), AT_FDCWD, path, AT_SYMLINK_FOLLOW));
  return std::shared_ptr<const SharedFile>(new SharedFile(std::move(file), path, state));
}

int SharedFile::fd() const { return file_.get(); }

Result<void> SharedFile::sync() const {
  const std::scoped_lock lock(syncing_);
  if (state_ == State::durable) return {};
  if (state_ == State::lost)
    return make_error(ErrorCode::internal, "an earlier sync of this file failed: it cannot be kept");
  const bool synced = retry_interrupted([&] { return ::fsync(fd()); }) == 0;
  state_ = synced ? State::durable : State::lost;
  if (synced) return {};
  return os_error(errno, "cannot sync");
}

Result<void> SharedFile::link(int directory, const char* name) const {
  return link_file(scratch_path_, directory, name, 0);
}

Result<void> remove_scratch_files(const std::string& scratch_directory) {
  std::error_code failure;
  std::filesystem::directory_iterator entries(scratch_directory, failure);
  Result<void> outcome;
  for (; !failure && entries != std::filesystem::directory_iterator(); entries.increment(failure)) {
    const auto& path = entries->path();
    if (!is_scratch_name(path.filename().native())) continue;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT && outcome)
      outcome = os_error(errno, "cannot remove a scratch file", path.native());
  }
  if (failure) return os_error(failure.value(), "cannot list", scratch_directory);
  return outcome;
}

}  // namespace cube::disk
