// Machines of this process.
#include "vmm/local_shell.hpp"

#include <mutex>

namespace cube::vmm {
namespace {

class LocalShell final : public MachineShell {
 public:
  explicit LocalShell(std::unique_ptr<Shell> shell)
      : vcpu_count_(shell->vcpu_count()), memory_bytes_(shell->memory_bytes()), shell_(std::move(shell)) {}

  std::uint32_t vcpu_count() const override { return vcpu_count_; }
  std::uint64_t memory_bytes() const override { return memory_bytes_; }

  Result<std::unique_ptr<Machine>> boot(Executors executors, MachineConfig config,
                                        const BootSource& source) override {
    CUBE_TRY(check_shape(config, *this));
    return vmm::boot(std::move(shell_), std::move(executors), std::move(config), source);
  }
  Result<std::unique_ptr<Machine>> restore(Executors executors, MachineConfig config,
                                           const MachineState& state, const MemoryImage& memory) override {
    CUBE_TRY(check_shape(config, *this));
    return vmm::restore(std::move(shell_), std::move(executors), std::move(config), state, memory);
  }

 private:
  const std::uint32_t vcpu_count_;
  const std::uint64_t memory_bytes_;
  std::unique_ptr<Shell> shell_;
};

class LocalShells final : public ShellMaker {
 public:
  explicit LocalShells(int kvm_fd) : kvm_fd_(kvm_fd) {}

  Result<std::unique_ptr<MachineShell>> make(std::uint32_t vcpu_count, std::uint64_t memory_bytes) override {
    auto host = examined();
    if (!host) return std::move(host).error();
    auto core = ShellCore::make(kvm_fd_, **host);
    if (!core) return std::move(core).error();
    auto shell = Shell::make(std::move(*core), vcpu_count, memory_bytes, std::move(*host));
    if (!shell) return std::move(shell).error();
    return std::unique_ptr<MachineShell>(std::make_unique<LocalShell>(std::move(*shell)));
  }

 private:
  Result<std::shared_ptr<const HostProfile>> examined() {
    const std::scoped_lock lock(mutex_);
    if (!host_) {
      auto host = examine_host(kvm_fd_);
      if (!host) return host;
      host_ = std::move(*host);
    }
    return host_;
  }

  const int kvm_fd_;
  std::mutex mutex_;
  std::shared_ptr<const HostProfile> host_;
};

}  // namespace

Result<void> check_shape(const MachineConfig& config, const MachineShell& shell) {
  if (config.vcpu_count != shell.vcpu_count() || config.memory_bytes != shell.memory_bytes())
    return make_error(ErrorCode::invalid_argument, "the shell has another shape than the machine");
  return {};
}

std::shared_ptr<ShellMaker> shells_in_this_process(int kvm_fd) {
  return std::make_shared<LocalShells>(kvm_fd);
}

}  // namespace cube::vmm
