// Files, disks and layers for the tests of src/disk.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cube/disk.hpp>
#include <filesystem>
#include <functional>
#include <random>

#include "temporary_directory.hpp"

namespace cube::disk::test {

using cube::test::TemporaryDirectory;
using Bytes = std::vector<std::byte>;
using Layers = std::vector<std::shared_ptr<const Layer>>;

template <class T>
T unwrap(Result<T> result) {
  if (!result.ok()) FAIL(result.error().describe());
  return std::move(result).value();
}

inline Bytes pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

inline void store(const std::string& path, const Bytes& bytes) {
  ::unlink(path.c_str());  // ext4 writes back a file at once that is truncated and filled again
  const Fd file = unwrap(open_file(path, O_WRONLY | O_CREAT | O_EXCL));
  REQUIRE(write_exactly(file.get(), bytes, 0).ok());
}

inline Bytes load(const std::string& path) {
  Bytes bytes(std::filesystem::file_size(path));
  const Fd file = unwrap(open_file(path, O_RDONLY));
  REQUIRE(read_exactly(file.get(), bytes, 0).ok());
  return bytes;
}

inline std::shared_ptr<const SharedFile> adopt(const std::string& path, const TemporaryDirectory& scratch) {
  return unwrap(SharedFile::adopt(unwrap(open_file(path, O_RDONLY)), scratch.path));
}

inline Result<std::shared_ptr<const Layer>> open_layer(const std::string& path, std::uint64_t capacity,
                                                       const TemporaryDirectory& scratch) {
  auto layer = Layer::open(adopt(path, scratch), capacity);
  if (layer)
    if (auto verified = (*layer)->verify(); !verified) return std::move(verified).error();
  return layer;
}

inline Result<void> publish(const Layer& layer, const std::string& path) {
  const std::filesystem::path target(path);
  const Fd directory = unwrap(open_file(target.parent_path(), O_RDONLY | O_DIRECTORY));
  return layer.publish(directory.get(), target.filename().c_str());
}

inline std::unique_ptr<CowDisk> open_disk(const std::string& base, Layers layers, std::uint64_t capacity,
                                          const TemporaryDirectory& scratch) {
  return unwrap(CowDisk::open(adopt(base, scratch), std::move(layers), capacity, scratch.path));
}

inline Result<void> write_bytes(vmm::BlockBackend& disk, std::uint64_t offset, const Bytes& bytes) {
  const iovec buffer{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return disk.write(offset, {&buffer, 1});
}

inline Bytes read_bytes(vmm::BlockBackend& disk, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, std::byte{0xee});
  const iovec buffer{bytes.data(), bytes.size()};
  const auto done = disk.read(offset, {&buffer, 1});
  if (!done.ok()) FAIL(done.error().describe());
  return bytes;
}

/// The clusters a layer holds, and what it holds in them; zeros elsewhere.
struct Content {
  std::vector<bool> held;
  Bytes bytes;
  bool operator==(const Content&) const = default;
};

inline Content content_of(const Layer& layer, std::uint64_t clusters) {
  Content content{std::vector<bool>(clusters), Bytes(clusters * cluster_size)};
  std::uint64_t count = 0;
  layer.for_each_run([&](std::uint64_t first, std::uint64_t length) {
    REQUIRE(first + length <= clusters);
    std::fill_n(content.held.begin() + static_cast<std::ptrdiff_t>(first), length, true);
    const auto part = std::span(content.bytes).subspan(first * cluster_size, length * cluster_size);
    REQUIRE(read_exactly(layer.fd(), part, Layer::data_offset + first * cluster_size).ok());
    count += length;
  });
  REQUIRE(layer.held_clusters() == count);
  for (std::uint64_t cluster = 0; cluster < clusters; ++cluster)
    REQUIRE(layer.holds(cluster) == content.held[cluster]);
  return content;
}

/// Runs `child` in a process of its own, for what cannot be undone; its exit status.
inline int in_child(const std::function<int()>& child) {
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) ::_exit(child());
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace cube::disk::test
