// What joins the files of a snapshot to machines.
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cube/snapshot.hpp>
#include <filesystem>
#include <mutex>
#include <optional>

#include "snapshot/files.hpp"
#include "snapshot/gathered_runs.hpp"
#include "snapshot/memory_image.hpp"
#include "snapshot/metadata.hpp"
#include "snapshot/publication.hpp"
#include "snapshot/resident_pages.hpp"
#include "snapshot/working_set.hpp"

namespace cube::snapshot {
namespace {

/// Reading so much in vain at a capture costs more than having the guest fault on its pages once more.
constexpr std::uint64_t worth_marking = 16u << 20;

/// What a machine with more of its own does next, a small part of it will do for.
constexpr std::uint64_t most_to_go_on = 16u << 20;

/// Clones of one snapshot that are restored from its layers as they are. For more it pays to gather these, as
/// soon as more are known of.
constexpr std::size_t few_clones = 3;

/// What of a machine's memory is not marked is as it was at this moment, or at a later capture of it.
struct Moment {
  std::weak_ptr<const vmm::ProcessMemory> machine;
  std::uint64_t number = 0;  ///< 0: never

  bool is_the_last_of(const std::shared_ptr<const vmm::ProcessMemory>& memory) const {
    return number != 0 && number == memory->marked_since() && machine.lock() == memory;
  }
};

class LayeredSnapshot final : public Snapshot {
 public:
  LayeredSnapshot(Files files, std::string scratch, bool verified, Moment marked_since = {},
                  const WorkingSet* parents = nullptr)
      : files_(std::move(files)),
        scratch_(std::move(scratch)),
        marked_since_(std::move(marked_since)),
        verified_(verified) {
    if (!files_.memory) return;
    memory_.emplace(files_.memory, files_.memory_layers, files_.shape.memory_bytes);
    working_set_ = std::make_shared<WorkingSet>(parents, memory_->runs());
  }

  const Shape& shape() const override { return files_.shape; }
  bool has_memory() const override { return files_.memory != nullptr; }
  std::size_t depth() const override {
    return std::max(files_.memory_layers.size(), files_.disk_layers.size());
  }

  Result<void> verify() const override {
    const std::scoped_lock lock(verification_);
    if (verified_) return {};
    CUBE_TRY(verify_layers(files_));
    if (files_.memory) CUBE_TRY(verify_base());
    verified_ = true;
    return {};
  }

  Result<Clone> clone(ShellPool& shells, vmm::Executors executors, vmm::MachineConfig config,
                      Readiness readiness) const override {
    if (!memory_)
      return make_error(ErrorCode::invalid_argument, "a snapshot of the disk alone has no machine to clone");
    auto disk = open_disk();
    if (!disk) return std::move(disk).error();
    auto shell = shells.take(files_.shape.vcpu_count, files_.shape.memory_bytes);
    if (!shell) return std::move(shell).error();
    config.vcpu_count = files_.shape.vcpu_count;
    config.memory_bytes = files_.shape.memory_bytes;
    config.root_disk = *disk;
    const auto [runs, working_set] = next_clone();
    vmm::MemoryImage image;
    image.base_fd = memory_->base_fd();
    image.runs = runs;
    Runs at_once;
    if (readiness == Readiness::to_come_up) {
      image.working_set = *working_set.to_come_up;
      image.first_use = *working_set.to_be_used;
    } else {
      at_once = in_either(*working_set.to_come_up, *working_set.to_be_used);
      if (readiness == Readiness::to_go_on) at_once = in_either(at_once, last_written());
      image.working_set = at_once;
    }
    image.observed = working_set.witness != nullptr;
    auto machine = (*shell)->restore(std::move(executors), std::move(config), files_.state, image);
    if (!machine) return std::move(machine).error();
    return Clone{std::move(*machine), std::move(*disk), working_set.witness};
  }

  void expect_clones(std::size_t count) const override { expected_ = count; }

  Result<std::shared_ptr<disk::CowDisk>> open_disk() const override {
    auto disk = disk::CowDisk::open(files_.disk, files_.disk_layers, files_.shape.disk_bytes, scratch_);
    if (!disk) return std::move(disk).error();
    return std::shared_ptr<disk::CowDisk>(std::move(*disk));
  }

  Result<void> publish(const std::string& directory) const override {
    auto pending = PendingDirectory::create(directory);
    if (!pending) return std::move(pending).error();
    CUBE_TRY(fill_directory(*pending, files_));
    return pending->publish();
  }

  Result<void> publish_over(const std::string& directory) const override {
    auto pending = PendingDirectory::create_beside(directory);
    if (!pending) return std::move(pending).error();
    CUBE_TRY(fill_directory(*pending, files_));
    return pending->publish_over();
  }

  const Files& files() const { return files_; }
  const std::string& scratch() const { return scratch_; }
  const MemoryView& memory() const { return *memory_; }
  const Moment& marked_since() const { return marked_since_; }
  /// The same base images with other layers: as trusted as this one.
  SnapshotPtr with(Files files, Moment marked_since) const {
    const auto working_set = working_set_.load();  // not behind a clone that gathers: the machine is paused
    const std::scoped_lock lock(verification_);
    return std::make_shared<LayeredSnapshot>(std::move(files), scratch_, verified_, std::move(marked_since),
                                             working_set.get());
  }
  /// The same content in other layers.
  SnapshotPtr with(Files files) const { return with(std::move(files), marked_since_); }

 private:
  Result<void> verify_base() const {
    const auto checksum = checksum_base_image(files_.memory->fd(), files_.shape.memory_bytes);
    if (!checksum) return checksum.error();
    if (*checksum != files_.memory_crc32c)
      return make_error(ErrorCode::corrupt, "the memory image does not match its checksum", "memory");
    return {};
  }

  struct ForClone {
    std::span<const vmm::MemoryImage::Run> runs;
    WorkingSet::ForClone working_set;
  };

  /// By the machine that was captured, since the capture before; none if it is much.
  Runs last_written() const {
    Runs runs;
    if (files_.memory_layers.empty()) return runs;
    const auto& newest = *files_.memory_layers.back();
    if (newest.held_clusters() * vmm::page_size > most_to_go_on) return runs;
    newest.for_each_run([&](std::uint64_t first, std::uint64_t count) {
      runs.push_back({first * vmm::page_size, count * vmm::page_size, true});
    });
    return runs;
  }

  ForClone next_clone() const {
    const std::scoped_lock lock(cloning_);
    const std::size_t known = std::max<std::size_t>(expected_, ++clones_);
    if (known > few_clones && !std::exchange(gathering_, true)) gather(known);
    return {gathered_ ? gathered_->runs() : memory_->runs(), working_set_.load()->begin_clone()};
  }

  /// From now on clones copy hardly anything: what they have written when they have come up they need.
  void gather(std::size_t clones) const {
    auto gathered = GatheredRuns::make(*memory_, scratch_, clones);
    if (!gathered)
      log(LogLevel::warning, "snapshot", "clones are made piece by piece: " + gathered.error().describe());
    if (!gathered || !*gathered) return;
    gathered_ = std::move(*gathered);
    working_set_ = std::make_shared<WorkingSet>(*working_set_.load(), WorkingSet::LearnAnew{});
  }

  const Files files_;
  const std::string scratch_;
  const Moment marked_since_;
  std::optional<MemoryView> memory_;
  mutable std::mutex verification_;
  mutable bool verified_;

  // Of a snapshot with memory.
  mutable std::atomic<std::size_t> expected_ = 0;
  mutable std::mutex cloning_;
  mutable std::size_t clones_ = 0;
  mutable bool gathering_ = false;  ///< once, whatever came of it
  mutable std::optional<GatheredRuns> gathered_;
  mutable std::atomic<std::shared_ptr<WorkingSet>> working_set_;
};

/// Every Snapshot is one of ours.
const LayeredSnapshot& layered(const SnapshotPtr& snapshot) {
  return static_cast<const LayeredSnapshot&>(*snapshot);
}

Result<void> make_read_only(int fd) {
  if (retry_interrupted([&] { return ::fchmod(fd, 0400); }) == 0) return {};
  return os_error(errno, "cannot make an image read-only");
}

/// Adds a base image of memory that was never mapped from one.
Result<void> add_base_image(Files& files, const vmm::ProcessMemory& memory, const std::string& scratch) {
  auto base = disk::SharedFile::create(scratch);
  if (!base) return std::move(base).error();
  const auto checksum = write_base_image((*base)->fd(), memory);
  if (!checksum) return checksum.error();
  CUBE_TRY(make_read_only((*base)->fd()));
  files.memory = std::move(*base);
  files.memory_crc32c = *checksum;
  return {};
}

/// Adds what the machine has changed of its parent's memory. Since when what it writes is marked.
Result<Moment> add_changes(Files& files, const LayeredSnapshot& parent,
                           const std::shared_ptr<const vmm::ProcessMemory>& memory) {
  Moment moment = parent.marked_since();
  const bool marked = moment.is_the_last_of(memory);
  const auto changes = collect_changes(parent.memory(), *memory,
                                       marked ? WhichPages::marked : WhichPages::own, parent.scratch());
  if (!changes) return changes.error();
  if (changes->layer->held_clusters() > 0) files.memory_layers.push_back(changes->layer);
  if (changes->unchanged_bytes < worth_marking) return marked ? moment : Moment();
  const auto number = memory->forget_writes();
  return number ? Moment{memory, *number} : Moment();
}

/// One layer, or none where there were none.
Result<Layers> merge_chain(const Layers& layers, const std::string& scratch, std::uint64_t capacity) {
  if (layers.size() < 2) return layers;
  auto merged = disk::merge_layers(layers, scratch, capacity);
  if (!merged) return std::move(merged).error();
  return Layers{std::move(*merged)};
}

bool starts_with(const Layers& layers, const Layers& oldest) {
  return layers.size() >= oldest.size() && std::equal(oldest.begin(), oldest.end(), layers.begin());
}

/// `later`'s layers with `merged` in place of the `count` oldest.
Layers replace_oldest(const Layers& later, std::size_t count, const Layers& merged) {
  Layers layers = merged;
  layers.insert(layers.end(), later.begin() + static_cast<std::ptrdiff_t>(count), later.end());
  return layers;
}

}  // namespace

Result<SnapshotPtr> open(const std::string& directory, const std::string& scratch_directory) {
  auto files = open_files(directory, scratch_directory);
  if (!files) return std::move(files).error();
  return SnapshotPtr(std::make_shared<LayeredSnapshot>(std::move(*files), scratch_directory, false));
}

Result<SnapshotPtr> capture_first(const Shape& shape, vmm::Machine& machine, Fd disk_image,
                                  const std::string& scratch_directory) {
  CUBE_TRY(check_shape(shape));
  const auto memory = machine.memory();
  if (!memory) return memory.error();
  if ((*memory)->bytes() != shape.memory_bytes)
    return make_error(ErrorCode::invalid_argument, "shape and machine disagree on the size of memory");
  Files files;
  files.shape = shape;
  auto state = machine.save();
  if (!state) return std::move(state).error();
  files.state = std::move(*state);

  CUBE_TRY(make_read_only(disk_image.get()));
  auto disk = disk::SharedFile::adopt(std::move(disk_image), scratch_directory);
  if (!disk) return std::move(disk).error();
  files.disk = std::move(*disk);
  CUBE_TRY(add_base_image(files, **memory, scratch_directory));
  return SnapshotPtr(std::make_shared<LayeredSnapshot>(std::move(files), scratch_directory, true));
}

// The disk is frozen last: what is frozen stays so, but an error before leaves everything as it was.
Result<SnapshotPtr> capture(const SnapshotPtr& parent, vmm::Machine& machine, disk::CowDisk& disk) {
  const LayeredSnapshot& before = layered(parent);
  Files files = before.files();
  const auto memory = machine.memory();
  if (!memory) return memory.error();
  if ((*memory)->bytes() != files.shape.memory_bytes)
    return make_error(ErrorCode::invalid_argument, "the machine was not cloned from this snapshot");
  auto state = machine.save();
  if (!state) return std::move(state).error();
  files.state = std::move(*state);
  Moment marked_since;
  if (files.memory) {
    auto added = add_changes(files, before, *memory);
    if (!added) return std::move(added).error();
    marked_since = std::move(*added);
  } else {
    CUBE_TRY(add_base_image(files, **memory, before.scratch()));
  }
  // It read pages of a damaged image as zeros: nothing that was read of it counts.
  if (machine.stopped())
    return make_error(ErrorCode::unavailable, "the machine stopped while it was captured");
  files.disk_layers = disk.freeze();
  return before.with(std::move(files), std::move(marked_since));
}

Result<SnapshotPtr> capture_disk(const SnapshotPtr& parent, disk::CowDisk& disk) {
  Files files = layered(parent).files();
  files.state = {};
  files.memory = nullptr;
  files.memory_crc32c = 0;
  files.memory_layers.clear();
  files.disk_layers = disk.freeze();
  return layered(parent).with(std::move(files), Moment());
}

Result<SnapshotPtr> merge(const SnapshotPtr& snapshot) {
  const LayeredSnapshot& deep = layered(snapshot);
  CUBE_TRY(deep.verify());  // what is written anew has a checksum of its own
  Files files = deep.files();
  auto memory = merge_chain(files.memory_layers, deep.scratch(), files.shape.memory_bytes);
  if (!memory) return std::move(memory).error();
  auto disk = merge_chain(files.disk_layers, deep.scratch(), files.shape.disk_bytes);
  if (!disk) return std::move(disk).error();
  files.memory_layers = std::move(*memory);
  files.disk_layers = std::move(*disk);
  return deep.with(std::move(files));
}

SnapshotPtr rebase(const SnapshotPtr& later, const SnapshotPtr& before, const SnapshotPtr& merged,
                   disk::CowDisk& disk) {
  const Files& old = layered(before).files();
  const Files& flat = layered(merged).files();
  Files files = layered(later).files();
  const bool descends = (!old.memory || files.memory == old.memory) &&
                        starts_with(files.memory_layers, old.memory_layers) && files.disk == old.disk &&
                        starts_with(files.disk_layers, old.disk_layers);
  if (!descends) return later;
  files.memory_layers = replace_oldest(files.memory_layers, old.memory_layers.size(), flat.memory_layers);
  files.disk_layers = replace_oldest(files.disk_layers, old.disk_layers.size(), flat.disk_layers);
  if (old.disk_layers.size() > 1) disk.replace_oldest(old.disk_layers.size(), flat.disk_layers.front());
  return layered(later).with(std::move(files));
}

std::uint64_t private_bytes(const vmm::Machine& machine) {
  const auto memory = machine.memory();
  if (!memory) return 0;
  const auto runs = resident_pages(**memory, WhichPages::own);
  return runs ? bytes_of(*runs) : 0;
}

Result<void> remove_leftovers(const std::string& parent) { return remove_temporary_directories(parent); }

Result<void> remove_unknown(const std::string& parent, const std::function<bool(const std::string&)>& known,
                            std::string_view what) {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(parent, error)) {
    if (known(item.path().filename())) continue;
    log(LogLevel::warning, "snapshot", "removing an unfinished " + std::string(what),
        {{"directory", item.path()}});
    CUBE_TRY(remove_directory(item.path()));
  }
  if (error) return os_error(error.value(), "cannot list", parent);
  return {};
}

Result<void> remove(const std::string& directory) { return remove_directory(directory); }

Result<void> remove_if_there(const std::string& directory) {
  auto removed = remove(directory);
  if (!removed && removed.error().code == ErrorCode::not_found) return {};
  return removed;
}

}  // namespace cube::snapshot
