#include "template/files.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

extern char** environ;

namespace cube::templates {
namespace {

constexpr std::size_t chunk_bytes = 1 << 20;
constexpr std::size_t block_bytes = 4096;

bool all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() || (bytes.front() == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

/// Writes the blocks that hold something; the rest of a new file are holes.
Result<void> write_sparsely(int fd, std::span<const std::byte> data, std::uint64_t offset) {
  while (!data.empty()) {
    const auto block = data.first(std::min(block_bytes, data.size()));
    if (!all_zero(block)) CUBE_TRY(write_exactly(fd, block, offset));
    data = data.subspan(block.size());
    offset += block.size();
  }
  return {};
}

Result<void> copy_range(int from, int to, std::uint64_t start, std::uint64_t end) {
  std::vector<std::byte> chunk(chunk_bytes);
  for (std::uint64_t offset = start; offset < end;) {
    const auto piece = std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), end - offset));
    CUBE_TRY(read_exactly(from, piece, offset));
    CUBE_TRY(write_sparsely(to, piece, offset));
    offset += piece.size();
  }
  return {};
}

Result<void> copy_data(int from, int to, std::uint64_t size) {
  for (std::uint64_t offset = 0; offset < size;) {
    const off_t data = ::lseek(from, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};  // only a hole is left
    if (data < 0) return copy_range(from, to, offset, size);
    const off_t hole = ::lseek(from, data, SEEK_HOLE);
    const std::uint64_t end = hole < 0 ? size : std::min(size, static_cast<std::uint64_t>(hole));
    CUBE_TRY(copy_range(from, to, static_cast<std::uint64_t>(data), end));
    offset = end;
  }
  return {};
}

/// The exit status of a program found by PATH.
Result<int> run_tool(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return os_error(error, "cannot run (e2fsprogs must be installed)", arguments.front());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return os_error(errno, "cannot wait for", arguments.front());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

}  // namespace

Result<std::uint64_t> copy_image(const std::string& from, const std::string& to, std::uint64_t bytes) {
  auto source = open_file(from, O_RDONLY | O_NONBLOCK);
  if (!source) return std::move(source).error();
  struct stat status {};
  if (::fstat(source->get(), &status) != 0) return os_error(errno, "cannot inspect", from);
  if (!S_ISREG(status.st_mode)) return make_error(ErrorCode::invalid_argument, "not a regular file", from);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::uint64_t wanted = std::max(bytes, size);
  auto target = open_file(to, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (!target) return std::move(target).error();
  if (::ioctl(target->get(), FICLONE, source->get()) != 0)
    if (auto copied = copy_data(source->get(), target->get(), size); !copied.ok()) {
      copied.error().object = to;
      return std::move(copied).error();
    }
  if (::ftruncate(target->get(), static_cast<off_t>(wanted)) != 0)
    return os_error(errno, "cannot resize", to);
  if (::fsync(target->get()) != 0) return os_error(errno, "cannot sync", to);
  return wanted;
}

Result<void> grow_ext4(const std::string& image) {
  // resize2fs insists on a check first; 1 means that something small was repaired.
  const auto checked = run_tool({"e2fsck", "-fp", image});
  if (!checked) return checked.error();
  if (*checked > 1)
    return make_error(ErrorCode::invalid_argument,
                      "not a sound ext4 file system: e2fsck says " + std::to_string(*checked), image);
  const auto grown = run_tool({"resize2fs", image});
  if (!grown) return grown.error();
  if (*grown != 0)
    return make_error(ErrorCode::internal, "resize2fs failed with " + std::to_string(*grown), image);
  return {};
}

}  // namespace cube::templates
