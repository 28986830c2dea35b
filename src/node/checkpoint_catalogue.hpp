// The catalogue of checkpoints: one row in the store and one directory each.
#pragma once

#include <cube/node.hpp>
#include <string>
#include <vector>

namespace cube::node {

class CheckpointCatalogue final : public Checkpoints {
 public:
  CheckpointCatalogue(asio::any_io_executor workers, Store& store, std::string directory,
                      std::string scratch_directory);

  /// Start-up: opens every checkpoint in the store; a damaged one is reported and refuses to be cloned.
  /// Removes the directories of those that were never finished. Blocks.
  Result<void> load();

  /// Publishes and stores a checkpoint; `info.id` is filled in. Until it returns there is none.
  asio::awaitable<Result<CheckpointInfo>> add(CheckpointInfo info, snapshot::SnapshotPtr snapshot);

  /// Puts a merged snapshot in the place of the checkpoint's, if it still is `before`.
  asio::awaitable<void> replace(snapshot::SnapshotPtr before, snapshot::SnapshotPtr merged);

  /// True if `ancestor` is `descendant` or a checkpoint that it descends from.
  bool descends(const std::string& descendant, const std::string& ancestor) const;

  std::vector<CheckpointInfo> list() const override;
  Result<CheckpointInfo> find(std::string_view reference) const override;
  Result<CloneSource> source(std::string_view reference) const override;
  asio::awaitable<Result<void>> remove(std::string reference) override;

 private:
  struct Entry {
    CheckpointInfo info;
    Result<snapshot::SnapshotPtr> snapshot;
  };

  std::string directory_of(const std::string& id) const { return directory_ + "/" + id; }
  Result<std::size_t> locate(std::string_view reference) const;
  const Entry* by_id(const std::string& id) const;
  Result<void> publish(const CheckpointInfo& info, const snapshot::Snapshot& snapshot);

  asio::any_io_executor workers_;
  Store& store_;
  const std::string directory_;
  const std::string scratch_directory_;
  std::vector<Entry> entries_;
};

}  // namespace cube::node
