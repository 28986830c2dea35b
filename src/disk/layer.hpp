// The layers there are: a file whose data is written and never changes again, and the bitmap of what it
// holds.
#pragma once

#include <cube/disk.hpp>
#include <mutex>

#include "disk/layer_file.hpp"

namespace cube::disk {

class StoredLayer final : public Layer {
 public:
  /// Of clusters that were written here.
  StoredLayer(std::shared_ptr<const SharedFile> file, AllocationBitmap allocated, std::uint64_t capacity)
      : file_(std::move(file)), content_{std::move(allocated)}, capacity_(capacity) {}

  /// A published one.
  StoredLayer(std::shared_ptr<const SharedFile> file, LayerFile content, std::uint64_t capacity)
      : file_(std::move(file)),
        content_(std::move(content)),
        capacity_(capacity),
        durable_(true),
        verified_(false) {}

  Result<void> verify() const override;
  int fd() const override { return file_->fd(); }
  bool holds(std::uint64_t cluster) const override { return content_.allocated.contains(cluster); }
  std::uint64_t held_clusters() const override { return content_.allocated.count(); }
  void for_each_run(const AllocationBitmap::RunFunction& run) const override {
    content_.allocated.for_each_run(run);
  }
  Result<void> publish(int directory, const char* name) const override;

 private:
  Result<void> make_durable() const;

  std::shared_ptr<const SharedFile> file_;
  LayerFile content_;
  std::uint64_t capacity_;
  mutable std::mutex mutex_;      // several machines may publish and verify a layer they share
  mutable bool durable_ = false;  // complete and synced; before, it is data only
  mutable bool verified_ = true;
};

}  // namespace cube::disk
