// Files at one end of a copy: on this machine or in a sandbox.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <cstdint>
#include <cube/core.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sandbox_access.hpp"

namespace cube::cubectl {

struct FileInfo {
  enum class Kind { file, directory, other };
  std::string name;
  Kind kind = Kind::other;  ///< of what a link leads to; `other` if it leads nowhere
  bool is_link = false;
  std::uint64_t size = 0;
  unsigned mode = 0644;  ///< permission bits
};

class FileReader {
 public:
  virtual ~FileReader() = default;
  /// 0 at the end.
  virtual asio::awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer) = 0;
};

class FileWriter {
 public:
  virtual ~FileWriter() = default;
  virtual asio::awaitable<Result<void>> write(asio::const_buffer piece) = 0;
  /// Without it what was written counts as unfinished.
  virtual asio::awaitable<Result<void>> finish() = 0;
};

class FileTree {
 public:
  virtual ~FileTree() = default;

  /// Nothing if there is nothing at `path`. Links are followed.
  virtual asio::awaitable<Result<std::optional<FileInfo>>> look_at(std::string path) = 0;

  /// What is in a directory, in the order of names.
  virtual asio::awaitable<Result<std::vector<FileInfo>>> list(std::string path) = 0;

  /// Missing parents too; not an error if it is there.
  virtual asio::awaitable<Result<void>> make_directory(std::string path, unsigned mode) = 0;

  virtual asio::awaitable<Result<std::unique_ptr<FileReader>>> open_to_read(std::string path) = 0;

  /// Replaces the content of a file that is there, and makes one that is not.
  virtual asio::awaitable<Result<std::unique_ptr<FileWriter>>> open_to_write(std::string path,
                                                                             unsigned mode) = 0;

  /// What is left to do when everything is written.
  virtual asio::awaitable<Result<void>> finish() = 0;

  /// The path as the user writes it.
  virtual std::string describe(const std::string& path) const = 0;
};

std::unique_ptr<FileTree> make_local_tree();
std::unique_ptr<FileTree> make_sandbox_tree(Client& client, Sandbox sandbox);

/// Standard input, and standard output.
std::unique_ptr<FileReader> make_input_reader();
std::unique_ptr<FileWriter> make_output_writer();

}  // namespace cube::cubectl
