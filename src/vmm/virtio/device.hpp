// What the machine sees of a virtio device: an MMIO window, an interrupt, and state that can be saved.
//
// Threads: `read` and `write` come from any vCPU thread; queue work runs on the executor a device was made
// with. One mutex per device guards its registers, queues and the device itself, so a queue is drained by one
// thread at a time. Work per kick is bounded: after `queue_size` chains a device posts itself again instead
// of going on.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "vmm/guest_memory.hpp"

namespace cube::vmm::virtio {

/// How a device reaches its machine. The callbacks may come from any thread and must not block.
struct Attachment {
  std::shared_ptr<const GuestMemory> memory;
  std::function<void()> raise_interrupt;
  /// A broken ring or request, or damaged memory: the machine ends. Called at most once.
  std::function<void(Error)> on_error;
};

/// A device behind its virtio-mmio (version 2) transport. Virtio 1.2, section 4.2.
class MmioDevice {
 public:
  virtual ~MmioDevice() = default;

  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;

  /// Blocks until no request is in flight; queues are then left alone until `resume`. Idempotent.
  virtual void quiesce() = 0;

  /// Serves what came in the meantime. A device starts quiesced: nothing touches the guest's memory before
  /// the first `resume`.
  virtual void resume() = 0;

  /// Quiesced devices only. `restore` checks everything: state files may be damaged.
  virtual std::string save() const = 0;
  virtual Result<void> restore(std::string_view state) = 0;

  /// For good: quiesces, and no callback of Attachment runs after it returned. Blocks.
  virtual void shut_down() = 0;
};

/// Work runs on `workers`: a backend may block.
std::shared_ptr<MmioDevice> make_block_device(Attachment attachment, asio::any_io_executor workers,
                                              std::shared_ptr<BlockBackend> backend);

/// `tap` is non-blocking with IFF_VNET_HDR and a 12-byte header; without one the device drops what the guest
/// sends.
std::shared_ptr<MmioDevice> make_net_device(Attachment attachment, asio::any_io_executor loop, Fd tap,
                                            std::array<std::uint8_t, 6> mac);

std::shared_ptr<MmioDevice> make_entropy_device(Attachment attachment, asio::any_io_executor workers);

/// Free page reporting only: reported pages are given back to the host (MADV_DONTNEED on anonymous memory;
/// pages that are still the image's need nothing).
std::shared_ptr<MmioDevice> make_balloon_device(Attachment attachment, asio::any_io_executor workers);

/// virtio-vsock that ends in this process: the host connects to the guest's ports; what the guest starts is
/// refused.
class VsockDevice : public virtual MmioDevice {
 public:
  /// See Machine::connect.
  virtual asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t port,
                                                                   std::chrono::milliseconds timeout) = 0;

  /// When the guest was last given bytes of a connection. Safe from any thread.
  virtual std::chrono::steady_clock::time_point last_data() const = 0;
};
std::shared_ptr<VsockDevice> make_vsock_device(Attachment attachment, asio::any_io_executor loop,
                                               std::uint64_t guest_cid);

}  // namespace cube::vmm::virtio
