// The layers there are: a file whose data is written and never changes again, and the bitmap of what it
// holds.
#pragma once

#include <cube/disk.hpp>
#include <mutex>

#include "disk/allocation_bitmap.hpp"

namespace cube::disk {

class StoredLayer final : public Layer {
 public:
  /// What the file is yet: `data` only; `durable` when it is complete and synced.
  enum class State { data, durable };

  StoredLayer(std::shared_ptr<const SharedFile> file, AllocationBitmap allocated, std::uint64_t capacity,
              State state)
      : file_(std::move(file)), allocated_(std::move(allocated)), capacity_(capacity), state_(state) {}

  int fd() const override { return file_->fd(); }
  bool holds(std::uint64_t cluster) const override { return allocated_.contains(cluster); }
  std::uint64_t held_clusters() const override { return allocated_.count(); }
  void for_each_run(const AllocationBitmap::RunFunction& run) const override { allocated_.for_each_run(run); }
  Result<void> publish(int directory, const char* name) const override;

 private:
  Result<void> make_durable() const;

  std::shared_ptr<const SharedFile> file_;
  AllocationBitmap allocated_;
  std::uint64_t capacity_;
  mutable std::mutex mutex_;  // several machines may publish a layer they share
  mutable State state_;
};

}  // namespace cube::disk
