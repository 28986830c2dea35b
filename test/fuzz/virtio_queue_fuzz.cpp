#include <asio/io_context.hpp>
#include <cstring>

#include "vmm/virtio/device.hpp"

using namespace cube;
using namespace cube::vmm;

namespace {

constexpr std::uint64_t memory_bytes = 1 << 20;
constexpr std::uint64_t ring_area = 0x1000;

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  bool empty() const { return rest_.empty(); }
  std::span<const std::uint8_t> take(std::size_t length) {
    const auto part = rest_.first(std::min(length, rest_.size()));
    rest_ = rest_.subspan(part.size());
    return part;
  }
  template <class T>
  T number() {
    T value{};
    const auto part = take(sizeof value);
    if (!part.empty()) std::memcpy(&value, part.data(), part.size());
    return value;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

class Disk final : public BlockBackend {
 public:
  std::uint64_t capacity_bytes() const override { return 64 * 512; }
  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    for (const iovec& part : into) offset += touch(offset, part.iov_len, part.iov_base);
    return {};
  }
  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    for (const iovec& part : from) offset += touch(offset, part.iov_len, nullptr);
    return {};
  }
  Result<void> flush() override { return {}; }

 private:
  static std::size_t touch(std::uint64_t offset, std::size_t length, void* into) {
    if (offset > 64 * 512 || length > 64 * 512 - offset) __builtin_trap();
    if (into != nullptr) std::memset(into, 0x5a, length);
    return length;
  }
};

void write_register(virtio::MmioDevice& device, std::uint64_t offset, std::uint32_t value) {
  device.write(offset, std::as_bytes(std::span(&value, 1)));
}

void start(virtio::MmioDevice& device, std::uint32_t ring_features) {
  for (const std::uint32_t status : {1u, 3u}) write_register(device, 0x070, status);
  write_register(device, 0x020, ring_features & (3u << 28));
  write_register(device, 0x024, 1);
  write_register(device, 0x020, 1);
  write_register(device, 0x070, 11);
  for (std::uint32_t queue = 0; queue < 3; ++queue) {
    const std::uint32_t base = ring_area + queue * 0x1000;
    write_register(device, 0x030, queue);
    write_register(device, 0x038, 16);
    write_register(device, 0x080, base);
    write_register(device, 0x090, base + 0x200);
    write_register(device, 0x0a0, base + 0x300);
    write_register(device, 0x044, 1);
  }
  write_register(device, 0x070, 15);
}

std::shared_ptr<virtio::MmioDevice> make(unsigned kind, virtio::Attachment attachment,
                                         asio::io_context& context) {
  const auto executor = context.get_executor();
  switch (kind % 4) {
    case 0: return virtio::make_block_device(std::move(attachment), executor, std::make_shared<Disk>());
    case 1: return virtio::make_net_device(std::move(attachment), executor, Fd(), {2, 0, 0, 0, 0, 1});
    case 2: return virtio::make_entropy_device(std::move(attachment), executor);
    default: return virtio::make_balloon_device(std::move(attachment), executor);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input({data, size});
  asio::io_context context;
  auto mapped = GuestMemory::map_anonymous(memory_bytes);
  if (!mapped) return 0;
  const auto memory = std::make_shared<const GuestMemory>(std::move(*mapped));
  const auto host = memory->regions()[0].host;
  int errors = 0;
  const auto device = make(input.number<std::uint8_t>(), {memory, [] {}, [&](Error) { ++errors; }}, context);

  const auto first = input.number<std::uint8_t>();
  if ((first & 1) != 0) start(*device, std::uint32_t{first} << 27);
  device->resume();
  while (!input.empty()) {
    switch (input.number<std::uint8_t>() % 6) {
      case 0: {
        const std::uint64_t offset = input.number<std::uint8_t>() * 4u;
        write_register(*device, offset, input.number<std::uint32_t>());
        break;
      }
      case 1: {
        std::array<std::byte, 8> out{};
        const std::uint64_t offset = input.number<std::uint16_t>() % 0x200;
        device->read(offset, std::span(out).first(1u << (offset % 4)));
        break;
      }
      case 2: {
        const std::size_t at = ring_area + input.number<std::uint16_t>() % 0x3000;
        const auto bytes = input.take(input.number<std::uint8_t>());
        if (!bytes.empty()) std::memcpy(host.data() + at, bytes.data(), bytes.size());
        break;
      }
      case 3: write_register(*device, 0x050, input.number<std::uint8_t>() % 4); break;
      case 4: {
        device->quiesce();
        const std::string state = device->save();
        if (const auto again = device->restore(state); !again.ok() && errors == 0) __builtin_trap();
        device->resume();
        break;
      }
      default: {
        device->quiesce();
        const auto bytes = input.take(input.number<std::uint8_t>());
        const auto done = device->restore({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
        (void)done.ok();
        device->resume();
      }
    }
    context.restart();
    context.poll();
  }
  device->shut_down();
  context.restart();
  context.poll();
  if (errors > 1) __builtin_trap();
  return 0;
}
