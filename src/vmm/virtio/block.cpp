// virtio-blk (virtio 1.2, section 5.2). One request at a time: the backend blocks, on a worker.
#include <array>
#include <chrono>
#include <cstring>
#include <limits>

#include "vmm/virtio/transport.hpp"

namespace cube::vmm::virtio {
namespace {

constexpr std::uint32_t block_id = 2;

constexpr std::uint64_t feature_segment_max = 1ull << 2;
constexpr std::uint64_t feature_block_size = 1ull << 6;
constexpr std::uint64_t feature_flush = 1ull << 9;

constexpr std::uint32_t sector_bytes = 512;
constexpr std::size_t most_data = 4u << 20;  ///< in one request

// Section 5.2.6.
enum RequestType : std::uint32_t { type_in = 0, type_out = 1, type_flush = 4, type_get_id = 8 };
enum class Status : std::uint8_t { ok = 0, io_error = 1, unsupported = 2 };

struct RequestHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

constexpr std::string_view serial = "cube-root";
constexpr std::size_t serial_bytes = 20;

// Section 5.2.4, as far as features offered here reach.
struct Config {
  std::uint64_t capacity;  ///< in sectors
  std::uint32_t size_max;
  std::uint32_t segment_max;
  std::uint32_t geometry;
  std::uint32_t block_size;
};
static_assert(sizeof(Config) == 24);

struct Outcome {
  Status status = Status::ok;
  std::size_t written = 0;  ///< data bytes given to the guest
};

class BlockDevice final : public Transport {
 public:
  BlockDevice(Attachment attachment, asio::any_io_executor workers, std::shared_ptr<BlockBackend> backend)
      : Transport(std::move(attachment), std::move(workers), block_id,
                  feature_segment_max | feature_block_size | feature_flush, 1),
        backend_(std::move(backend)),
        capacity_(backend_ ? backend_->capacity_bytes() / sector_bytes * sector_bytes : 0) {}

 private:
  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    Config config{};
    config.capacity = capacity_ / sector_bytes;
    config.segment_max = max_queue_size - 2;  // a header and a status go with the data
    config.block_size = sector_bytes;
    copy_config(std::as_bytes(std::span(&config, 1)), offset, data);
  }

  Result<bool> drain(std::size_t queue, std::size_t budget) override {
    return serve_requests(queue, budget, [this](const Chain& chain) { return serve(chain); });
  }

  void device_shut_down() override { backend_.reset(); }

  Result<std::uint32_t> serve(const Chain& chain) {
    RequestHeader header;
    if (copy_from(chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))) != sizeof header)
      return make_error(ErrorCode::guest, "virtio-blk: a request without its header");
    if (chain.writable_bytes == 0)
      return make_error(ErrorCode::guest, "virtio-blk: a request without a status byte");
    const Outcome outcome = execute(header, chain);
    // The status is the last byte, wherever it lies. Length counts from the first byte on: a request that
    // leaves data unwritten before its status reports what it wrote of the data (section 2.7.8.2).
    const std::uint64_t data_bytes = chain.writable_bytes - 1;
    copy_to(chain.writable, data_bytes, std::as_bytes(std::span(&outcome.status, 1)));
    return static_cast<std::uint32_t>(outcome.written + (outcome.written == data_bytes ? 1 : 0));
  }

  Outcome execute(const RequestHeader& header, const Chain& chain) {
    switch (header.type) {
      case type_in: return transfer(header, chain.writable, chain.writable_bytes - 1, true);
      case type_out: return transfer(header, chain.readable, chain.readable_bytes - sizeof header, false);
      case type_flush: return {report(backend_ ? backend_->flush() : no_backend()), 0};
      case type_get_id: return get_id(chain);
      default: return {Status::unsupported, 0};
    }
  }

  Outcome transfer(const RequestHeader& header, const std::vector<iovec>& buffers, std::uint64_t length,
                   bool in) {
    const std::uint64_t sectors = capacity_ / sector_bytes;
    if (length % sector_bytes != 0 || length > most_data || header.sector > sectors ||
        length / sector_bytes > sectors - header.sector)
      return {Status::io_error, 0};
    if (length == 0) return {};
    if (!backend_) return {Status::io_error, 0};
    const auto data = slice_buffers(buffers, in ? 0 : sizeof header, length);
    const std::uint64_t offset = header.sector * sector_bytes;
    const Status status = report(in ? backend_->read(offset, data) : backend_->write(offset, data));
    return {status, in && status == Status::ok ? length : 0};
  }

  static Outcome get_id(const Chain& chain) {
    if (chain.writable_bytes - 1 < serial_bytes) return {Status::io_error, 0};
    std::array<char, serial_bytes> id{};
    serial.copy(id.data(), id.size());
    return {Status::ok, copy_to(chain.writable, 0, std::as_bytes(std::span(id)))};
  }

  static Result<void> no_backend() { return make_error(ErrorCode::unavailable, "no disk"); }

  /// A failing disk is the guest's to handle; the log hears of it once a second at most.
  Status report(const Result<void>& result) {
    if (result.ok()) return Status::ok;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_report_ >= std::chrono::seconds(1)) {
      last_report_ = now;
      log(LogLevel::error, "vmm", "a disk request failed", {{"error", result.error().describe()}});
    }
    return Status::io_error;
  }

  std::shared_ptr<BlockBackend> backend_;
  const std::uint64_t capacity_;
  std::chrono::steady_clock::time_point last_report_{};
};

}  // namespace

std::shared_ptr<MmioDevice> make_block_device(Attachment attachment, asio::any_io_executor workers,
                                              std::shared_ptr<BlockBackend> backend) {
  return std::make_shared<BlockDevice>(std::move(attachment), std::move(workers), std::move(backend));
}

}  // namespace cube::vmm::virtio
