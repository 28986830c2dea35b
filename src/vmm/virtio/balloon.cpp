// virtio-balloon (virtio 1.2, section 5.5), for free page reporting alone: the balloon's size is always 0.
#include <sys/mman.h>

#include "vmm/virtio/transport.hpp"

namespace cube::vmm::virtio {
namespace {

constexpr std::uint32_t balloon_id = 5;
constexpr std::uint64_t feature_reporting = 1ull << 5;

// Inflate and deflate come first. Linux numbers only the queues it uses (vm_find_vqs in virtio_mmio.c skips
// those without a name), so without the statistics and hinting features reporting is the third.
constexpr std::size_t queue_count = 3;
constexpr std::size_t reporting_queue = 2;

class BalloonDevice final : public Transport {
 public:
  BalloonDevice(Attachment attachment, asio::any_io_executor workers)
      : Transport(std::move(attachment), std::move(workers), balloon_id, feature_reporting, queue_count) {}

 private:
  void read_config(std::uint64_t, std::span<std::byte>) override {}  // num_pages and actual: 0

  Result<bool> drain(std::size_t queue, std::size_t budget) override {
    return serve_requests(queue, budget, [queue](const Chain& chain) -> Result<std::uint32_t> {
      if (queue == reporting_queue)
        for (const iovec& range : chain.writable) release(range);
      return 0u;
    });
  }

  /// Whole pages only. The next access finds zeros in anonymous memory and the image's bytes in a mapped
  /// image: without PAGE_POISON the driver expects neither.
  static void release(const iovec& range) {
    const auto begin = (reinterpret_cast<std::uintptr_t>(range.iov_base) + page_size - 1) & ~(page_size - 1);
    const auto end = (reinterpret_cast<std::uintptr_t>(range.iov_base) + range.iov_len) & ~(page_size - 1);
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
};

}  // namespace

std::shared_ptr<MmioDevice> make_balloon_device(Attachment attachment, asio::any_io_executor workers) {
  return std::make_shared<BalloonDevice>(std::move(attachment), std::move(workers));
}

}  // namespace cube::vmm::virtio
