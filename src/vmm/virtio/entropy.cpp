// virtio-rng (virtio 1.2, section 5.4).
#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "vmm/virtio/transport.hpp"

namespace cube::vmm::virtio {
namespace {

constexpr std::uint32_t entropy_id = 4;

/// A request is answered with at most this much; the rest of its buffers stays as it was.
constexpr std::size_t most_per_request = 64 * 1024;

class EntropyDevice final : public Transport {
 public:
  EntropyDevice(Attachment attachment, asio::any_io_executor workers)
      : Transport(std::move(attachment), std::move(workers), entropy_id, 0, 1) {}

 private:
  void read_config(std::uint64_t, std::span<std::byte>) override {}

  Result<bool> drain(std::size_t queue, std::size_t budget) override {
    return serve_requests(queue, budget, fill);
  }

  static Result<std::uint32_t> fill(const Chain& chain) {
    std::size_t filled = 0;
    for (const iovec& buffer : chain.writable) {
      const std::size_t length = std::min(buffer.iov_len, most_per_request - filled);
      for (std::size_t done = 0; done < length;) {
        const ssize_t count = ::getrandom(static_cast<std::byte*>(buffer.iov_base) + done, length - done, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return static_cast<std::uint32_t>(filled + done);
        done += static_cast<std::size_t>(count);
      }
      filled += length;
    }
    return static_cast<std::uint32_t>(filled);
  }
};

}  // namespace

std::shared_ptr<MmioDevice> make_entropy_device(Attachment attachment, asio::any_io_executor workers) {
  return std::make_shared<EntropyDevice>(std::move(attachment), std::move(workers));
}

}  // namespace cube::vmm::virtio
