// The catalogue of checkpoints: one row in the store and one directory each.
#pragma once

#include <cube/node.hpp>
#include <string>
#include <vector>

namespace cube::node {

class CheckpointCatalogue final : public Checkpoints {
 public:
  /// Told of each checkpoint that goes, and of the one it came from ("": of none): what descended from the
  /// first descends from the second now.
  using RemovalFunction = std::function<void(const std::string& gone, const std::string& parent)>;

  /// What is called is called on the executors' loop.
  CheckpointCatalogue(const vmm::Executors& executors, Store& store, std::string directory,
                      std::string scratch_directory, RemovalFunction on_removed);

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
  Result<void> store(const CheckpointInfo& info);

  asio::any_io_executor workers_;
  Store& store_;
  const std::string directory_;
  const std::string scratch_directory_;
  const RemovalFunction on_removed_;
  std::vector<Entry> entries_;
  AsyncMutex naming_;  // rows are written one after another
};

}  // namespace cube::node
