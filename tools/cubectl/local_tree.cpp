// This machine's files. Reads and writes block: nothing else is to be done meanwhile.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "file_tree.hpp"
#include "standard_input.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

FileInfo info_of(std::string name, const struct stat& status) {
  FileInfo info;
  info.name = std::move(name);
  info.kind = S_ISREG(status.st_mode)   ? FileInfo::Kind::file
              : S_ISDIR(status.st_mode) ? FileInfo::Kind::directory
                                        : FileInfo::Kind::other;
  info.size = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
  info.mode = status.st_mode & 0777;
  return info;
}

class DescriptorReader final : public FileReader {
 public:
  DescriptorReader(Fd file, int descriptor) : file_(std::move(file)), descriptor_(descriptor) {}

  awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer) override {
    const ssize_t count =
        retry_interrupted([&] { return ::read(descriptor_, buffer.data(), buffer.size()); });
    if (count < 0) co_return os_error(errno, "cannot read");
    co_return static_cast<std::size_t>(count);
  }

 private:
  Fd file_;  ///< empty for standard input
  int descriptor_;
};

class OutputWriter final : public FileWriter {
 public:
  awaitable<Result<void>> write(asio::const_buffer piece) override {
    co_return write_out(1, std::string_view(static_cast<const char*>(piece.data()), piece.size()));
  }
  awaitable<Result<void>> finish() override { co_return Result<void>{}; }
};

/// A file that we made and did not finish goes again.
class LocalWriter final : public FileWriter {
 public:
  LocalWriter(Fd file, std::string path, bool made)
      : file_(std::move(file)), path_(std::move(path)), made_(made) {}
  ~LocalWriter() override {
    if (made_ && file_) ::unlink(path_.c_str());
  }

  awaitable<Result<void>> write(asio::const_buffer piece) override {
    std::string_view rest(static_cast<const char*>(piece.data()), piece.size());
    while (!rest.empty()) {
      const ssize_t count = retry_interrupted([&] { return ::write(file_.get(), rest.data(), rest.size()); });
      if (count < 0) co_return os_error(errno, "cannot write");
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    co_return Result<void>{};
  }

  awaitable<Result<void>> finish() override {
    const int descriptor = file_.release();
    // Some file systems only tell here that there was no room.
    if (::close(descriptor) != 0) co_return os_error(errno, "cannot write");
    co_return Result<void>{};
  }

 private:
  Fd file_;
  std::string path_;
  bool made_;
};

class LocalTree final : public FileTree {
 public:
  awaitable<Result<std::optional<FileInfo>>> look_at(std::string path) override {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) co_return std::optional<FileInfo>(info_of(path, status));
    if (errno == ENOENT || errno == ENOTDIR) co_return std::optional<FileInfo>();
    co_return os_error(errno, "cannot look at it");
  }

  awaitable<Result<std::vector<FileInfo>>> list(std::string path) override {
    std::vector<FileInfo> entries;
    DIR* directory = ::opendir(path.c_str());
    if (!directory) co_return os_error(errno, "cannot read the directory");
    for (const dirent* entry; (entry = ::readdir(directory)) != nullptr;) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      const std::string full = path + "/" + name;
      struct stat own {
      }, followed{};
      if (::lstat(full.c_str(), &own) != 0) continue;  // it went meanwhile
      if (::stat(full.c_str(), &followed) != 0) followed = own;
      FileInfo info = info_of(name, followed);
      info.is_link = S_ISLNK(own.st_mode);
      entries.push_back(std::move(info));
    }
    ::closedir(directory);
    std::ranges::sort(entries, {}, &FileInfo::name);
    co_return entries;
  }

  awaitable<Result<void>> make_directory(std::string path, unsigned mode) override {
    // What is to be written into must be writable for us.
    if (::mkdir(path.c_str(), mode | 0700) == 0) co_return Result<void>{};
    if (errno == EEXIST && std::filesystem::is_directory(path)) co_return Result<void>{};
    co_return os_error(errno, "cannot make the directory");
  }

  awaitable<Result<std::unique_ptr<FileReader>>> open_to_read(std::string path) override {
    auto file = open_file(path, O_RDONLY | O_NOCTTY);
    if (!file) co_return without_path(std::move(file).error());
    const int descriptor = file->get();
    co_return std::unique_ptr<FileReader>(new DescriptorReader(std::move(*file), descriptor));
  }

  awaitable<Result<std::unique_ptr<FileWriter>>> open_to_write(std::string path, unsigned mode) override {
    const bool made = ::access(path.c_str(), F_OK) != 0;
    auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY, mode);
    if (!file) co_return without_path(std::move(file).error());
    co_return std::unique_ptr<FileWriter>(new LocalWriter(std::move(*file), path, made));
  }

  awaitable<Result<void>> finish() override { co_return Result<void>{}; }

  std::string describe(const std::string& path) const override { return path; }

 private:
  /// Whoever reports it names the path.
  static Error without_path(Error error) {
    error.object.clear();
    return error;
  }
};

}  // namespace

std::unique_ptr<FileTree> make_local_tree() { return std::make_unique<LocalTree>(); }

std::unique_ptr<FileReader> make_input_reader() { return std::make_unique<DescriptorReader>(Fd(), 0); }

std::unique_ptr<FileWriter> make_output_writer() { return std::make_unique<OutputWriter>(); }

}  // namespace cube::cubectl
