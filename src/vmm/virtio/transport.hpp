// Transport: the virtio-mmio register window (virtio 1.2, section 4.2, version 2) that every device shares.
//
// A device derives from it and supplies its id, features, configuration space and what to do with a queue.
// The transport owns the status machine, the queues' registers, interrupts, and the order of draining:
//
// - Registers that guests touch in the hot path (QueueNotify, InterruptStatus, InterruptACK) take no lock: a
//   kick sets a bit and posts one `drain` to the executor; the interrupt status is atomic.
// - Everything else, and `drain`, holds `mutex_`. Device code therefore never locks.
// - A drain handles at most max_queue_size chains of a queue, then posts itself again. It stops sooner if
//   somebody waits for it.
// - Status moves only ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK; bits are only added, a write of 0
// resets.
//   Queue registers count only between FEATURES_OK and DRIVER_OK, features only before FEATURES_OK. What
//   comes out of order is ignored. A queue that cannot be activated, or a driver that refuses
//   VIRTIO_F_VERSION_1, ends in DEVICE_NEEDS_RESET with a configuration interrupt.
// - Kicks that came before DRIVER_OK or while quiesced are kept and served later.
#pragma once

#include <array>
#include <atomic>
#include <functional>
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

  /// Handles chains of one queue, at most `budget`; true if it stopped for the budget. `guest` ends the
  /// machine.
  virtual Result<bool> drain(std::size_t queue, std::size_t budget) = 0;

  /// Before a snapshot: nothing may be in flight when it returns. Afterwards `drain` is not called.
  virtual void device_quiesce() {}
  virtual void device_resume() {}

  /// The last call a device gets, after `device_quiesce`.
  virtual void device_shut_down() {}

  /// What the device itself has to remember; empty for most.
  virtual std::string save_device() const { return {}; }
  virtual Result<void> restore_device(std::string_view) { return {}; }

  // --- What a device uses; with the mutex held ---

  std::uint64_t features() const { return driver_features_; }
  Queue& queue(std::size_t index) { return queues_[index]; }
  const GuestMemory& memory() const { return *attachment_.memory; }

  /// `read_config` of a device whose space is the bytes of a struct.
  static void copy_config(std::span<const std::byte> config, std::uint64_t offset, std::span<std::byte> data);

  /// Answers one request; how many bytes of its writable buffers were filled.
  using RequestHandler = std::function<Result<std::uint32_t>(const Chain&)>;

  /// A whole `drain` for devices that answer each request at once.
  Result<bool> serve_requests(std::size_t queue, std::size_t budget, const RequestHandler& handle);

  /// Interrupts if the driver wants to hear of what was pushed to this queue.
  void notify_driver(std::size_t queue);

  /// The driver should read the configuration again.
  void notify_config_change();

  /// Runs `drain` for a queue soon, as if the driver had kicked it. Safe from any thread, without the mutex.
  void schedule(std::size_t queue);

  /// The guest broke a rule: the machine ends. The device does nothing any more.
  void fail(Error error);

  /// Fails if the memory turns out to be damaged; after guest memory was touched, `drain` aside.
  void check_memory();

  bool running() const { return running_; }  ///< DRIVER_OK, not quiesced, not failed

  std::mutex& mutex() { return mutex_; }
  const asio::any_io_executor& executor() const { return executor_; }

 private:
  /// What the driver set of a queue before it was activated.
  struct QueueRegisters {
    Queue::Layout layout;
    bool ready = false;
  };

  std::uint32_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_queue_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void reset();
  void accept_features();
  void activate();
  Result<void> activate_queues(const std::vector<Queue::Position>& positions);
  void need_reset();

  void post_drain();
  void run_drain();
  void drain_queues();
  void schedule_all();
  void update_running();
  void interrupt(std::uint32_t reason);

  Result<void> read_state(std::string_view state);
  Result<std::vector<Queue::Position>> read_queues(StateReader& reader);

  Attachment attachment_;
  asio::any_io_executor executor_;
  const std::uint32_t device_id_;
  const std::uint64_t device_features_;

  // Touched without the mutex.
  std::atomic<std::uint32_t> interrupt_status_ = 0;
  std::atomic<std::uint64_t> kicked_ = 0;  ///< a bit for each queue
  std::atomic<bool> drain_posted_ = false;
  std::atomic<bool> drain_interrupted_ = false;  ///< quiesce or shut_down waits for the mutex
  std::atomic<bool> shut_down_ = false;

  mutable std::mutex mutex_;
  std::vector<Queue> queues_;
  std::vector<QueueRegisters> queue_registers_;
  std::uint32_t status_ = 0;
  std::uint32_t device_features_select_ = 0;
  std::uint32_t driver_features_select_ = 0;
  std::uint32_t queue_select_ = 0;
  std::uint32_t config_generation_ = 0;
  std::uint64_t driver_features_ = 0;
  bool quiesced_ = true;
  bool failed_ = false;
  bool running_ = false;
  Chain chain_;  ///< of serve_requests; its vectors are reused
};

}  // namespace cube::vmm::virtio
