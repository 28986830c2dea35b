// virtio-net on a tap (virtio 1.2, section 5.1). The tap speaks the same 12-byte packet header, so packets
// and their offload requests pass through untouched; what a header asks for is the kernel's to check.
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <optional>

#include "vmm/virtio/transport.hpp"

namespace cube::vmm::virtio {
namespace {

constexpr std::uint32_t net_id = 1;

constexpr std::uint64_t feature_host_checksums = 1ull << 0;   // CSUM: the guest sends partial checksums
constexpr std::uint64_t feature_guest_checksums = 1ull << 1;  // GUEST_CSUM: it accepts them
constexpr std::uint64_t feature_mac = 1ull << 5;
constexpr std::uint64_t feature_host_tso4 = 1ull << 11;  // the guest sends segments larger than the MTU
constexpr std::uint64_t feature_status = 1ull << 16;

// Section 5.1.2.
constexpr std::size_t receive_queue = 0;
constexpr std::size_t transmit_queue = 1;
constexpr std::size_t queue_count = 2;

// Section 5.1.6: struct virtio_net_hdr with num_buffers, which a tap leaves unset.
constexpr std::size_t header_bytes = 12;
constexpr std::size_t buffer_count_offset = 10;

constexpr std::uint64_t most_packet_bytes = header_bytes + 14 + 65535;

struct Config {
  std::array<std::uint8_t, 6> mac;
  std::uint16_t status;
};
static_assert(sizeof(Config) == 8);
constexpr std::uint16_t status_link_up = 1;

class NetDevice final : public Transport {
 public:
  NetDevice(Attachment attachment, asio::any_io_executor loop, Fd tap, std::array<std::uint8_t, 6> mac)
      : Transport(std::move(attachment), loop, net_id, offered(tap), queue_count),
        mac_(mac),
        link_status_(tap ? status_link_up : 0) {
    if (!tap) return;
    asio::error_code failed;
    tap_.emplace(loop);
    if (tap_->assign(tap.get(), failed); failed)
      tap_.reset();
    else
      tap.release();
    if (failed) log(LogLevel::error, "vmm", "the tap cannot be waited for", {{"error", failed.message()}});
  }

 private:
  static std::uint64_t offered(const Fd& tap) {
    constexpr std::uint64_t always = feature_mac | feature_status;
    return tap ? always | feature_host_checksums | feature_guest_checksums | feature_host_tso4 : always;
  }

  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    const Config config{mac_, link_status_};
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
  }

  /// The tap keeps what its last user set, and a restored machine comes with a new one.
  void activated() override {
    if (!tap_) return;
    const unsigned offload = (features() & feature_guest_checksums) != 0 ? TUN_F_CSUM : 0;
    if (::ioctl(tap_->native_handle(), TUNSETOFFLOAD, offload) != 0)
      report_once("cannot set the tap's offloads", os_error(errno, "TUNSETOFFLOAD").describe());
  }

  Result<bool> drain(std::size_t index, std::size_t budget) override {
    if (index == receive_queue) return tap_ ? receive(budget) : false;
    return serve_requests(index, budget, [this](const Chain& chain) { return transmit(chain); });
  }

  Result<std::uint32_t> transmit(const Chain& chain) {
    if (chain.readable_bytes < header_bytes)
      return make_error(ErrorCode::guest, "virtio-net: a packet without its header");
    if (!tap_) return 0u;
    // A packet the tap does not take is lost, as on a wire.
    if (chain.readable_bytes > most_packet_bytes ||
        ::writev(tap_->native_handle(), chain.readable.data(), static_cast<int>(chain.readable.size())) < 0)
      ++transmit_dropped_;
    return 0u;
  }

  /// While the driver gives no buffers, packets stay in the tap, whose own queue drops the excess.
  Result<bool> receive(std::size_t budget) {
    Queue& buffers = queue(receive_queue);
    buffers.disable_kicks();
    for (; budget > 0; --budget) {
      const auto popped = buffers.pop(buffer_);
      if (!popped) return popped.error();
      if (!*popped) {
        if (buffers.enable_kicks()) continue;
        return false;
      }
      if (buffer_.writable_bytes < header_bytes)
        return make_error(ErrorCode::guest, "virtio-net: a receive buffer without room for a header");
      const ssize_t length =
          ::readv(tap_->native_handle(), buffer_.writable.data(), static_cast<int>(buffer_.writable.size()));
      const int failure = length < 0 ? errno : 0;
      if (length < static_cast<ssize_t>(header_bytes)) {
        buffers.undo_pop();
        if (failure == EAGAIN) wait_for_packet();
        if (failure == EAGAIN || failure == EINTR) return failure == EINTR;
        return tap_failed(failure);
      }
      constexpr std::uint16_t one = 1;
      copy_to(buffer_.writable, buffer_count_offset, std::as_bytes(std::span(&one, 1)));
      buffers.push(buffer_.head, static_cast<std::uint32_t>(length));
      notify_driver(receive_queue);
    }
    return true;
  }

  void wait_for_packet() {
    if (std::exchange(waiting_, true)) return;
    tap_->async_wait(asio::posix::stream_descriptor::wait_read,
                     [this, self = shared_from_this()](const asio::error_code& failed) {
                       const std::lock_guard lock(mutex());
                       waiting_ = false;
                       if (!failed) schedule(receive_queue);
                     });
  }

  /// Receiving ends until the driver kicks again: a tap that is gone does not come back by asking.
  bool tap_failed(int failure) {
    report_once("the tap gives no packets",
                failure == 0 ? "a packet without its header" : os_error(failure, "readv").describe());
    return false;
  }

  /// The guest could repeat what leads here: it must not fill the log.
  void report_once(std::string_view message, std::string error) {
    if (std::exchange(reported_, true)) return;
    log(LogLevel::warning, "vmm", message, {{"error", std::move(error)}});
  }

  void device_shut_down() override {
    if (transmit_dropped_ != 0)
      log(LogLevel::info, "vmm", "packets of the guest were dropped",
          {{"packets", std::to_string(transmit_dropped_)}});
    tap_.reset();
  }

  const std::array<std::uint8_t, 6> mac_;
  const std::uint16_t link_status_;  // without a tap there is no link, and nothing for the guest to watch
  std::optional<asio::posix::stream_descriptor> tap_;
  bool waiting_ = false;
  bool reported_ = false;
  std::uint64_t transmit_dropped_ = 0;
  Chain buffer_;
};

}  // namespace

std::shared_ptr<MmioDevice> make_net_device(Attachment attachment, asio::any_io_executor loop, Fd tap,
                                            std::array<std::uint8_t, 6> mac) {
  return std::make_shared<NetDevice>(std::move(attachment), std::move(loop), std::move(tap), mac);
}

}  // namespace cube::vmm::virtio
