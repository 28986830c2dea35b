// Transport: the virtio-mmio register window (virtio 1.2, section 4.2, version 2) that every device shares.
//
// A device derives from it and supplies its id, features, configuration space and what to do with a queue. The
// transport owns the status machine, the queues' registers, interrupts, and the order of draining:
//
// - Registers that guests touch in the hot path (QueueNotify, InterruptStatus, InterruptACK) take no lock: a
//   kick sets a bit and posts one `drain` to the executor; the interrupt status is atomic.
// - Everything else, and `drain`, holds `mutex_`. Device code therefore never locks.
// - A drain handles at most max_queue_size chains of a queue, then posts itself again.
// - Status moves only ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK; bits are only added, a write of 0 resets.
//   Queue registers count only between FEATURES_OK and DRIVER_OK, features only before FEATURES_OK. What comes
//   out of order is ignored. A queue that cannot be activated, or a driver that refuses VIRTIO_F_VERSION_1, ends
//   in DEVICE_NEEDS_RESET with a configuration interrupt.
// - Kicks that came before DRIVER_OK or while quiesced are kept and served later.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "vmm/state_codec.hpp"
#include "vmm/virtio/device.hpp"
#include "vmm/virtio/queue.hpp"

namespace cube::vmm::virtio {

inline constexpr std::uint64_t feature_indirect_descriptors = 1ull << 28;
inline constexpr std::uint64_t feature_event_index = 1ull << 29;
inline constexpr std::uint64_t feature_version_1 = 1ull << 32;

class Transport : public virtual MmioDevice, public std::enable_shared_from_this<Transport> {
 public:
  /// `executor` is where `drain` runs. Feature bits of the ring (above) are added to `device_features`.
  Transport(Attachment attachment, asio::any_io_executor executor, std::uint32_t device_id,
            std::uint64_t device_features, std::size_t queue_count);
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void quiesce() override;
  void resume() override;
  std::string save() const override;
  Result<void> restore(std::string_view state) override;
  void shut_down() override;

 protected:
  // --- What a device supplies; called with the mutex held ---

  /// The configuration space from `offset` on; bytes past its end stay as they are (zero).
  virtual void read_config(std::uint64_t offset, std::span<std::byte> data) = 0;

  /// The driver is ready (also after `restore` of a running device). `features()` is final.
  virtual void activated() {}
  /// The driver reset the device: forget everything it said.
  virtual void was_reset() {}

  /// Handles chains of one queue, at most `budget`; true if it stopped for the budget. `guest` ends the machine.
  virtual Result<bool> drain(std::size_t queue, std::size_t budget) = 0;

  /// Before a snapshot: nothing may be in flight when it returns. Afterwards `drain` is not called.
  virtual void device_quiesce() {}
  virtual void device_resume() {}

  /// What the device itself has to remember; empty for most.
  virtual std::string save_device() const { return {}; }
  virtual Result<void> restore_device(std::string_view) { return {}; }

  // --- What a device uses; with the mutex held ---

  std::uint64_t features() const { return driver_features_; }
  Queue& queue(std::size_t index) { return queues_[index]; }
  const GuestMemory& memory() const { return *attachment_.memory; }

  /// Interrupts if the driver wants to hear of what was pushed to this queue.
  void notify_driver(std::size_t queue);

  /// The driver should read the configuration again.
  void notify_config_change();

  /// Runs `drain` for a queue soon, as if the driver had kicked it. Safe from any thread, without the mutex.
  void schedule(std::size_t queue);

  /// The guest broke a rule: the machine ends. The device does nothing any more.
  void fail(Error error);

  bool running() const { return running_; }  ///< DRIVER_OK, not quiesced, not failed

  std::mutex& mutex() { return mutex_; }
  const asio::any_io_executor& executor() const { return executor_; }

 private:
  Attachment attachment_;
  asio::any_io_executor executor_;
  const std::uint32_t device_id_;
  const std::uint64_t device_features_;

  mutable std::mutex mutex_;
  std::vector<Queue> queues_;
  std::uint64_t driver_features_ = 0;
  bool running_ = false;
  // The implementer adds what else the registers need.
};

}  // namespace cube::vmm::virtio
