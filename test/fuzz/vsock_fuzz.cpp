// The vsock device against a guest that writes what it likes: input bytes become packets, receive buffers,
// register writes and raw changes of the rings, between operations of the host's streams.
#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <cstdint>
#include <memory>

#include "../unit/vsock_driver.hpp"

using namespace cube;
using namespace cube::vmm::virtio;
using namespace cube::vmm::virtio::test;
using vsock::Header;
using vsock::Op;

namespace {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  std::string_view bytes(std::size_t length) {
    const auto taken = rest_.substr(0, length);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  template <class T>
  T number() {
    T value{};
    const auto taken = bytes(sizeof value);
    std::memcpy(&value, taken.data(), taken.size());
    return value;
  }

 private:
  std::string_view rest_;
};

struct Host {
  std::vector<std::shared_ptr<Stream>> streams;
};

asio::awaitable<void> connect(std::shared_ptr<VsockDevice> device, Host& host) {
  auto stream = co_await device->connect(1, std::chrono::hours(1));
  if (stream) host.streams.push_back(std::move(*stream));
}

asio::awaitable<void> read(std::shared_ptr<Stream> stream, std::size_t length) {
  std::string buffer(length, '\0');
  const auto done = co_await stream->read_some(asio::buffer(buffer));
  if (done && *done > length) __builtin_trap();
}

asio::awaitable<void> write(std::shared_ptr<Stream> stream, std::size_t length) {
  const std::string data(length, 'x');
  static_cast<void>(co_await stream->write(asio::buffer(data)));  // the guest may have ended it
}

/// One step of guest or host. A stream has one reader and one writer at most, so it is dropped from the list
/// once it has either, and lives as long as that waits.
void step(Input& input, VsockGuest& guest, asio::io_context& loop, Host& host, std::uint32_t& host_port) {
  const auto stream =
      host.streams.empty() ? nullptr : host.streams[input.number<std::uint8_t>() % host.streams.size()];
  switch (input.number<std::uint8_t>() % 12) {
    case 0: {  // a plausible packet, most often for a connection that exists
      Header header = VsockGuest::header(Op{input.number<std::uint8_t>()}, 1, host_port);
      header.flags = input.number<std::uint8_t>();
      header.buffer_size = input.number<std::uint32_t>();
      header.forwarded_count = input.number<std::uint32_t>();
      guest.send(header, input.bytes(input.number<std::uint8_t>()));
      break;
    }
    case 1: {  // any bytes at all
      const std::size_t first = input.number<std::uint8_t>();
      const auto bytes = input.bytes(input.number<std::uint8_t>());
      if (!bytes.empty()) guest.send_raw(bytes, first);
      break;
    }
    case 2:
      guest.rx_bytes = 45u + input.number<std::uint16_t>();
      guest.give_receive_buffers(input.number<std::uint8_t>() % 8);
      break;
    case 3:
      while (const auto used = guest.queues[VsockGuest::rx].next_used()) {
        Header header;
        const std::uint64_t at = VsockGuest::rx_buffers + used->chain * VsockGuest::slot_bytes;
        std::memcpy(&header, guest.bytes_at(at, sizeof header), sizeof header);
        if (header.op == Op::request) host_port = header.source_port;
      }
      break;
    case 4: asio::co_spawn(loop, connect(guest.device, host), asio::detached); break;
    case 5:
      if (stream) asio::co_spawn(loop, read(stream, 1 + input.number<std::uint16_t>()), asio::detached);
      if (stream) std::erase(host.streams, stream);
      break;
    case 6:
      if (stream) asio::co_spawn(loop, write(stream, input.number<std::uint16_t>() * 8u), asio::detached);
      if (stream) std::erase(host.streams, stream);
      break;
    case 7:
      if (stream) stream->shutdown_write();
      break;
    case 8:
      if (stream) stream->close();
      break;
    case 9: {  // the rings and descriptors themselves
      const std::uint64_t at =
          0x10000u + input.number<std::uint8_t>() % 3 * 0x10000u + input.number<std::uint16_t>() % 0x2ff0u;
      const auto bytes = input.bytes(1 + input.number<std::uint8_t>() % 16);
      std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(guest.bytes_at(at, 16)));
      guest.set(0x050, input.number<std::uint8_t>() % 4);
      break;
    }
    case 10: {  // a snapshot, sometimes a damaged one
      guest.device->quiesce();
      std::string state = guest.device->save();
      if (const auto damage = input.number<std::uint8_t>(); damage % 4 == 0)
        state[input.number<std::uint16_t>() % state.size()] = static_cast<char>(damage);
      auto copy = make_vsock_device({guest.memory, {}, {}}, loop.get_executor(), guest_cid);
      if (copy->restore(state).ok()) {
        guest.device->shut_down();
        guest.device = std::move(copy);
      }
      guest.device->resume();
      break;
    }
    default:
      guest.set(input.number<std::uint8_t>() * 4u, input.number<std::uint32_t>());
      if (input.number<std::uint8_t>() % 4 == 0) {
        guest.give_event_buffer();
        guest.kick(VsockGuest::event);
      }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  asio::io_context loop;
  VsockGuest guest(loop);
  guest.start(16, 512);
  guest.device->resume();
  Host host;
  std::uint32_t host_port = 0;
  asio::co_spawn(loop, connect(guest.device, host), asio::detached);
  loop.poll();
  if (const auto request = guest.receive()) host_port = request->header.source_port;
  guest.send(VsockGuest::header(Op::response, 1, host_port));

  Input input(data, size);
  for (int steps = 0; !input.empty() && steps < 256; ++steps) {
    step(input, guest, loop, host, host_port);
    loop.restart();
    loop.poll();
  }
  guest.device->shut_down();
  host.streams.clear();
  loop.restart();
  loop.poll();
  return 0;
}
