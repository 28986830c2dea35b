// The machine: what was made in the right order, and the way between its vCPUs and devices.
#include <asio/post.hpp>
#include <atomic>
#include <cube/vmm.hpp>

#include "vmm/arch/x86_64/acpi.hpp"
#include "vmm/arch/x86_64/boot.hpp"
#include "vmm/arch/x86_64/ioapic.hpp"
#include "vmm/arch/x86_64/layout.hpp"
#include "vmm/arch/x86_64/serial.hpp"
#include "vmm/kvm.hpp"
#include "vmm/local_shell.hpp"
#include "vmm/machine_state.hpp"
#include "vmm/settling.hpp"
#include "vmm/shell.hpp"
#include "vmm/vcpu_thread.hpp"
#include "vmm/virtio/device.hpp"

namespace cube::vmm {
namespace {

using namespace x86_64;

constexpr std::uint64_t guest_cid = 3;  // every guest's: vsock ends in its own device
constexpr std::array<std::uint8_t, 6> guest_mac = {0x02, 0x00, 0x00, 0x00, 0x00, 0x01};  // every guest's

/// After the guest was sent something. What takes it longer may take any time.
constexpr std::chrono::milliseconds longest_to_settle{250};

constexpr const char* memory_is_damaged = "its memory image is damaged";

// The order of the devices' windows and pins, part of the state's format.
enum Slot : std::size_t { slot_block, slot_net, slot_vsock, slot_entropy, slot_balloon, slot_count };

DeviceWindow window_of(std::size_t slot) {
  return {virtio_mmio_base + slot * virtio_mmio_window, virtio_mmio_window,
          first_virtio_pin + static_cast<std::uint32_t>(slot)};
}

class MachineImpl final : public Machine, private ExitHandler {
 public:
  MachineImpl(std::unique_ptr<Shell> shell, Executors executors, MachineConfig config)
      : executors_(std::move(executors)),
        config_(std::move(config)),
        shell_(std::move(shell)),
        ioapic_([this](std::uint32_t address, std::uint32_t data) { deliver(address, data); }),
        serial_(config_.on_console, [this] { ioapic_.raise(serial_pin); }) {
    create_devices();
    for (std::uint32_t i = 0; i < shell_->vcpu_count(); ++i)
      vcpus_.push_back(std::make_unique<VcpuThread>(shell_->vcpu(i), static_cast<ExitHandler&>(*this), i));
  }

  ~MachineImpl() override {
    stop();
    // Until here a device or a vCPU may find a reason to end every vCPU: none goes before the last is still.
    for (const auto& device : devices_) device->shut_down();
    for (const auto& vcpu : vcpus_) vcpu->join();
  }

  Result<void> prepare_boot(const BootSource& source) {
    const GuestMemory& memory = *shell_->memory();
    const auto entry = load_kernel(memory, source.kernel_fd);
    if (!entry) return entry.error();
    CUBE_TRY(write_boot_data(memory, source.command_line));
    std::array<DeviceWindow, slot_count> windows;
    for (std::size_t slot = 0; slot < slot_count; ++slot) windows[slot] = window_of(slot);
    CUBE_TRY(write_acpi_tables(memory, shell_->vcpu_count(), windows));
    CUBE_TRY(write_generation_id());
    return set_boot_state(shell_->vcpu(0), *entry);
  }

  Result<void> apply(const MachineRecord& record) {
    if (record.cpu_fingerprint != shell_->host().cpu_fingerprint)
      return make_error(ErrorCode::conflict,
                        "the snapshot was made on another processor model; build the template on this host");
    if (record.vcpus.size() != shell_->vcpu_count() || record.memory_bytes != shell_->memory_bytes() ||
        record.devices.size() != slot_count)
      return make_error(ErrorCode::conflict, "the snapshot was made with another machine shape");
    CUBE_TRY(shell_->vm().set_clock(
        {.clock = record.clock.clock, .flags = 0, .pad0 = 0, .realtime = 0, .host_tsc = 0, .pad = {}}));
    for (std::size_t i = 0; i < record.vcpus.size(); ++i)
      CUBE_TRY(restore_vcpu(shell_->vcpu(i), record.vcpus[i]));
    ioapic_.restore(record.ioapic);
    serial_.restore(record.serial);
    for (std::size_t slot = 0; slot < slot_count; ++slot)
      CUBE_TRY(devices_[slot]->restore(record.devices[slot]));
    if (!config_.new_generation) return {};
    CUBE_TRY(write_generation_id());
    ioapic_.raise(generation_pin);  // waits in the local APIC until the guest runs
    return {};
  }

  void populate(const MemoryImage& memory) {
    shell_->populate(memory.working_set);
    first_use_.assign(memory.first_use.begin(), memory.first_use.end());
  }

  Result<void> resume() override {
    CUBE_TRY(check_running());
    for (const auto& device : devices_) device->resume();
    for (const auto& vcpu : vcpus_) vcpu->resume();
    return {};
  }

  Result<void> settle() override {
    wait_until_idle([this] { return cpu_time(); }, [this] { return stopped(); },
                    vsock_->last_data() + longest_to_settle);
    return check_running();
  }

  Result<void> pause() override {
    for (const auto& vcpu : vcpus_) vcpu->request_pause();
    for (const auto& vcpu : vcpus_) vcpu->wait_parked();
    for (const auto& device : devices_) device->quiesce();
    return check_running();
  }

  // On a vCPU's thread, because KVM fills the nested page tables for nobody else while that runs.
  void expect_use() override {
    auto pages = std::exchange(first_use_, {});
    if (pages.empty()) return;
    vcpus_.front()->ask([this, pages = std::move(pages)] { shell_->populate(pages); });
  }

  Result<MachineState> save() override {
    MachineRecord record;
    record.cpu_fingerprint = shell_->host().cpu_fingerprint;
    record.memory_bytes = shell_->memory_bytes();
    for (std::size_t i = 0; i < vcpus_.size(); ++i) {
      auto state = save_vcpu(shell_->vcpu(i), shell_->host().msrs);
      if (!state) return std::move(state).error();
      record.vcpus.push_back(std::move(*state));
    }
    const auto clock = shell_->vm().clock();
    if (!clock) return clock.error();
    record.clock = *clock;
    record.ioapic = ioapic_.save();
    record.serial = serial_.save();
    for (const auto& device : devices_) record.devices.push_back(device->save());
    return encode(record);
  }

  Result<std::shared_ptr<const ProcessMemory>> memory() const override {
    return ProcessMemory::open(shell_->memory()->spans());
  }

  asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t port,
                                                           std::chrono::milliseconds timeout) override {
    return vsock_->connect(port, timeout);
  }

  bool stopped() const override { return stopped_ || shell_->memory()->damaged(); }

  void stop() override { fail(StopReason::Kind::requested, "stopped"); }

 private:
  std::chrono::nanoseconds cpu_time() const {
    std::chrono::nanoseconds sum{};
    for (const auto& vcpu : vcpus_) sum += vcpu->cpu_time();
    return sum;
  }

  Result<void> write_generation_id() {
    const auto place = shell_->memory()->slice(generation_id_address, config_.generation_id.size());
    if (!place) return place.error();
    std::ranges::copy(std::as_bytes(std::span(config_.generation_id)), place->begin());
    return {};
  }

  void create_devices() {
    const auto attach = [this](Slot slot) {
      return virtio::Attachment{
          shell_->memory(), [this, pin = window_of(slot).pin] { ioapic_.raise(pin); },
          [this](Error error) { fail(StopReason::Kind::guest_error, error.describe()); }};
    };
    devices_[slot_block] =
        virtio::make_block_device(attach(slot_block), executors_.workers, config_.root_disk);
    devices_[slot_net] =
        virtio::make_net_device(attach(slot_net), executors_.loop, std::move(config_.tap), guest_mac);
    vsock_ = virtio::make_vsock_device(attach(slot_vsock), executors_.loop, guest_cid);
    devices_[slot_vsock] = vsock_;
    devices_[slot_entropy] = virtio::make_entropy_device(attach(slot_entropy), executors_.workers);
    devices_[slot_balloon] = virtio::make_balloon_device(attach(slot_balloon), executors_.workers);
  }

  void deliver(std::uint32_t address, std::uint32_t data) {
    if (const auto sent = shell_->vm().signal_msi(address, data); !sent.ok())
      fail(StopReason::Kind::host_error, sent.error().describe());
  }

  /// Ends the guest; the first reason counts. Safe from any thread, never waits.
  void fail(StopReason::Kind kind, std::string detail) {
    if (stopped_.exchange(true)) return;
    if (kind != StopReason::Kind::requested && shell_->memory()->damaged()) {
      // Then the guest is not at fault, whatever it did.
      kind = StopReason::Kind::host_error;
      detail = memory_is_damaged;
    }
    for (const auto& vcpu : vcpus_) vcpu->request_stop();
    // Streams into the guest end now, not when the last owner of the machine goes.
    asio::post(executors_.loop,
               [vsock = vsock_, on_stop = config_.on_stop, reason = StopReason{kind, std::move(detail)}] {
                 if (vsock) vsock->shut_down();
                 if (on_stop) on_stop(reason);
               });
  }

  /// `unavailable` if it has stopped, or is to because its memory was found damaged.
  Result<void> check_running() {
    if (shell_->memory()->damaged()) fail(StopReason::Kind::host_error, memory_is_damaged);
    if (stopped_) return make_error(ErrorCode::unavailable, "the machine has stopped");
    return {};
  }

  /// The device whose window holds an access, and the offset inside.
  std::pair<virtio::MmioDevice*, std::uint64_t> device_at(std::uint64_t address, std::size_t length) const {
    if (address < virtio_mmio_base) return {};
    const std::uint64_t slot = (address - virtio_mmio_base) / virtio_mmio_window;
    const std::uint64_t offset = (address - virtio_mmio_base) % virtio_mmio_window;
    if (slot >= slot_count || offset + length > virtio_mmio_window) return {};
    return {devices_[slot].get(), offset};
  }

  void read_mmio(std::uint64_t address, std::span<std::byte> data) override {
    if (address - ioapic_address < ioapic_window) return ioapic_.read(address - ioapic_address, data);
    const auto [device, offset] = device_at(address, data.size());
    if (device != nullptr) return device->read(offset, data);
    std::ranges::fill(data, std::byte{0xff});
  }

  void write_mmio(std::uint64_t address, std::span<const std::byte> data) override {
    if (address - ioapic_address < ioapic_window) return ioapic_.write(address - ioapic_address, data);
    if (const auto [device, offset] = device_at(address, data.size()); device != nullptr)
      device->write(offset, data);
  }

  void read_port(std::uint16_t port, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0xff});
    if (port >= serial_port && port < serial_port + 8)
      data[0] = std::byte{serial_.read(static_cast<std::uint16_t>(port - serial_port))};
    if (port == keyboard_controller_port) data[0] = std::byte{0};  // ready for a command
  }

  void write_port(std::uint16_t port, std::span<const std::byte> data) override {
    constexpr std::byte pulse_reset_line{0xfe};
    if (port >= serial_port && port < serial_port + 8)
      serial_.write(static_cast<std::uint16_t>(port - serial_port), std::to_integer<std::uint8_t>(data[0]));
    if (port == keyboard_controller_port && data[0] == pulse_reset_line) on_reset("keyboard controller");
  }

  void on_reset(std::string detail) override {
    shell_->memory()->look_for_damage();
    fail(StopReason::Kind::reset, std::move(detail));
  }
  void on_guest_error(std::string detail) override {
    shell_->memory()->look_for_damage();
    fail(StopReason::Kind::guest_error, std::move(detail));
  }
  void on_host_error(std::string detail) override { fail(StopReason::Kind::host_error, std::move(detail)); }
  void on_memory_error(std::string detail) override {
    fail(StopReason::Kind::host_error, memory_is_damaged + (": " + detail));
  }

  // Destroyed from the bottom: threads and devices before the tables they call and the shell they run in.
  Executors executors_;
  MachineConfig config_;
  std::unique_ptr<Shell> shell_;
  IoApic ioapic_;
  Serial serial_;
  std::atomic<bool> stopped_ = false;
  std::vector<PageRun> first_use_;  // until it is expected; on the loop
  std::shared_ptr<virtio::VsockDevice> vsock_;
  std::array<std::shared_ptr<virtio::MmioDevice>, slot_count> devices_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;
};

}  // namespace

Result<std::unique_ptr<Machine>> boot(std::unique_ptr<Shell> shell, Executors executors, MachineConfig config,
                                      const BootSource& source) {
  auto machine = std::make_unique<MachineImpl>(std::move(shell), std::move(executors), std::move(config));
  CUBE_TRY(machine->prepare_boot(source));
  return std::unique_ptr<Machine>(std::move(machine));
}

Result<std::unique_ptr<Machine>> restore(std::unique_ptr<Shell> shell, Executors executors,
                                         MachineConfig config, const MachineState& state,
                                         const MemoryImage& memory) {
  const auto record = decode(state);
  if (!record) return record.error();
  CUBE_TRY(shell->map_image(memory));
  auto machine = std::make_unique<MachineImpl>(std::move(shell), std::move(executors), std::move(config));
  CUBE_TRY(machine->apply(*record));
  machine->populate(memory);
  return std::unique_ptr<Machine>(std::move(machine));
}

}  // namespace cube::vmm
