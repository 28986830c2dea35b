// What joins the files of a snapshot to machines.
#include <cube/snapshot.hpp>

#include "snapshot/files.hpp"
#include "snapshot/publication.hpp"

namespace cube::snapshot {
namespace {

class OpenedSnapshot final : public Snapshot {
 public:
  explicit OpenedSnapshot(Files files) : files_(std::move(files)) {}

  const Shape& shape() const override { return files_.shape; }

  Result<std::unique_ptr<vmm::Machine>> clone(int kvm_fd, vmm::Executors executors, vmm::MachineConfig config,
                                              const std::string& scratch_directory) const override {
    auto base = files_.disk.duplicate();
    if (!base) return std::move(base).error();
    auto disk = disk::CowDisk::open(std::move(base).value(), {}, files_.shape.disk_bytes, scratch_directory);
    if (!disk) return std::move(disk).error();
    config.vcpu_count = files_.shape.vcpu_count;
    config.memory_bytes = files_.shape.memory_bytes;
    config.root_disk = std::move(disk).value();
    auto shell = vmm::MachineShell::make(kvm_fd, config.vcpu_count, config.memory_bytes);
    if (!shell) return std::move(shell).error();
    vmm::MemoryImage memory;
    memory.base_fd = files_.memory.get();
    return vmm::Machine::restore(std::move(*shell), std::move(executors), std::move(config), files_.state,
                                 memory);
  }

 private:
  Files files_;
};

}  // namespace

Result<std::shared_ptr<const Snapshot>> open(const std::string& directory) {
  auto files = open_files(directory);
  if (!files) return std::move(files).error();
  return std::shared_ptr<const Snapshot>(std::make_shared<OpenedSnapshot>(std::move(files).value()));
}

Result<void> write(const std::string& directory, const Shape& shape, vmm::Machine& machine,
                   const std::string& disk_path) {
  const auto state = machine.save();
  if (!state) return state.error();
  return write_files(directory, shape, *state, machine.memory(), disk_path);
}

Result<void> remove_leftovers(const std::string& parent) { return remove_temporary_directories(parent); }

Result<void> remove(const std::string& directory) { return remove_directory(directory); }

}  // namespace cube::snapshot
