#include "node/boot.hpp"

#include <fcntl.h>

namespace cube::node {
namespace {

// panic=-1 and reboot=k end a broken guest through the keyboard controller at once. There is no second core
// to wait for, no PS/2 device to probe.
constexpr std::string_view kernel_arguments =
    "console=ttyS0 loglevel=5 reboot=k panic=-1 root=/dev/vda rw rootfstype=ext4 init=/sbin/cube-agent "
    "pci=off random.trust_cpu=on nomodule i8042.noaux i8042.nomux i8042.dumbkbd 8250.nr_uarts=1";

}  // namespace

Result<std::unique_ptr<vmm::Machine>> boot_guest(vmm::ShellMaker& shells, vmm::Executors executors,
                                                 vmm::MachineConfig config, const std::string& kernel_path) {
  const auto kernel = open_file(kernel_path, O_RDONLY);
  if (!kernel) return kernel.error();
  auto shell = shells.order(config.vcpu_count, config.memory_bytes);
  if (!shell) return std::move(shell).error();
  return (*shell)->boot(std::move(executors), std::move(config),
                        {kernel->get(), std::string(kernel_arguments)});
}

}  // namespace cube::node
