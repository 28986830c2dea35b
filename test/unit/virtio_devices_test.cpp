#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>

#include "virtio_driver.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::virtio;
using namespace cube::vmm::virtio::test;

namespace {

class MemoryDisk final : public BlockBackend {
 public:
  explicit MemoryDisk(std::size_t bytes) : bytes_(bytes, '\0') {}
  std::uint64_t capacity_bytes() const override { return bytes_.size(); }
  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    for (const iovec& part : into) {
      bytes_.copy(static_cast<char*>(part.iov_base), part.iov_len, offset);
      offset += part.iov_len;
    }
    return {};
  }
  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    for (const iovec& part : from) {
      bytes_.replace(offset, part.iov_len, static_cast<const char*>(part.iov_base), part.iov_len);
      offset += part.iov_len;
    }
    return {};
  }
  Result<void> flush() override {
    ++flushes;
    return {};
  }
  std::string bytes_;
  int flushes = 0;
};

class BrokenDisk final : public BlockBackend {
 public:
  std::uint64_t capacity_bytes() const override { return 1 << 20; }
  Result<void> read(std::uint64_t, std::span<const iovec>) override { return os_error(EIO, "read"); }
  Result<void> write(std::uint64_t, std::span<const iovec>) override { return os_error(ENOSPC, "write"); }
  Result<void> flush() override { return os_error(EIO, "flush"); }
};

constexpr std::uint32_t type_in = 0, type_out = 1, type_flush = 4, type_get_id = 8;
constexpr char ok = 0, io_error = 1, unsupported = 2, untouched = 0x55;

constexpr std::uint64_t header_area = data_area, body_area = data_area + 0x10000;
constexpr std::uint64_t status_area = data_area + 0x8000;
constexpr std::uint64_t disk_bytes = 1 << 20;

struct Disk : Driver {
  explicit Disk(std::shared_ptr<BlockBackend> backend, std::uint64_t memory_bytes = 16 << 20)
      : Driver(make_memory(memory_bytes)) {
    device = make_block_device(attachment(), context.get_executor(), std::move(backend));
    start(1, version_1, 256);
  }

  void put_header(std::uint32_t type, std::uint64_t sector) const {
    ram.store<std::uint32_t>(header_area, type);
    ram.store<std::uint32_t>(header_area + 4, 0);
    ram.store<std::uint64_t>(header_area + 8, sector);
  }

  /// One request with the usual buffers; its status.
  char request(std::uint32_t type, std::uint64_t sector, std::uint32_t length) {
    put_header(type, sector);
    ram.store<char>(status_area, untouched);
    std::vector<Buffer> buffers = {{header_area, 16, false}};
    if (length > 0) buffers.push_back({body_area, length, type != type_out});
    buffers.push_back({status_area, 1, true});
    return submit(buffers);
  }
  char submit(const std::vector<Buffer>& buffers) {
    rings[0].add(buffers);
    run(0);
    const auto used = rings[0].take_used();
    written = used ? used->written : ~0u;
    return ram.load<char>(status_area);
  }
  std::uint32_t written = 0;
};

std::string pattern(std::size_t length) {
  std::string text(length, '\0');
  for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>(i * 7 + i / 256);
  return text;
}

}  // namespace

TEST_CASE("a disk reads what was written") {
  auto backend = std::make_shared<MemoryDisk>(disk_bytes);
  Disk disk(backend);
  CHECK(disk.config<std::uint64_t>(0) == disk_bytes / 512);
  CHECK(disk.config<std::uint32_t>(12) == 254);
  CHECK(disk.config<std::uint32_t>(20) == 512);
  CHECK(disk.config<std::uint64_t>(22) == 0);  // two bytes of the block size, then nothing

  const std::string text = pattern(4096);
  disk.ram.write(body_area, text);
  CHECK(disk.request(type_out, 3, 4096) == ok);
  CHECK(disk.written == 1);
  CHECK(backend->bytes_.substr(3 * 512, 4096) == text);
  disk.ram.write(body_area, std::string(4096, 'x'));
  CHECK(disk.request(type_in, 3, 4096) == ok);
  CHECK(disk.written == 4097);
  CHECK(disk.ram.read(body_area, 4096) == text);
  CHECK(disk.request(type_flush, 0, 0) == ok);
  CHECK(backend->flushes == 1);
}

TEST_CASE("a disk has a name") {
  Disk disk(std::make_shared<MemoryDisk>(disk_bytes));
  CHECK(disk.request(type_get_id, 0, 20) == ok);
  CHECK(disk.ram.read(body_area, 20) == std::string("cube-root") + std::string(11, '\0'));
  CHECK(disk.request(type_get_id, 0, 19) == io_error);
}

TEST_CASE("requests outside the disk or of odd sizes fail, and nothing is touched") {
  auto backend = std::make_shared<MemoryDisk>(disk_bytes);
  Disk disk(backend);
  constexpr std::uint64_t sectors = disk_bytes / 512;
  for (const std::uint32_t type : {type_in, type_out}) {
    CHECK(disk.request(type, sectors - 1, 512) == ok);
    CHECK(disk.request(type, sectors, 0) == ok);
    CHECK(disk.request(type, sectors - 1, 1024) == io_error);
    CHECK(disk.request(type, sectors, 512) == io_error);
    CHECK(disk.request(type, ~0ull, 512) == io_error);
    CHECK(disk.request(type, ~0ull / 512 + 1, 512) == io_error);
    CHECK(disk.request(type, (1ull << 55) + 1, 512) == io_error);
    CHECK(disk.request(type, 0, 511) == io_error);
    CHECK(disk.request(type, 0, 513) == io_error);
  }
  for (const std::uint32_t type : {2u, 3u, 5u, 9u, 11u, 13u, 0xffffffffu})
    CHECK(disk.request(type, 0, 512) == unsupported);
  CHECK(disk.errors == 0);
  CHECK(disk.request(type_in, 0, 512) == ok);
}

TEST_CASE("a request for more than 4 MiB fails") {
  Disk disk(std::make_shared<MemoryDisk>(8 << 20), 16 << 20);
  CHECK(disk.request(type_in, 0, 4 << 20) == ok);
  CHECK(disk.request(type_in, 0, (4 << 20) + 512) == io_error);
}

TEST_CASE("header, data and status may be cut anywhere") {
  auto backend = std::make_shared<MemoryDisk>(disk_bytes);
  Disk disk(backend);
  const std::string text = pattern(512);
  for (const std::uint32_t piece : {1u, 3u, 7u, 16u, 200u}) {
    const auto cut = [&](std::uint64_t address, std::uint32_t length, bool writable) {
      std::vector<Buffer> parts;
      for (std::uint32_t at = 0; at < length; at += piece)
        parts.push_back({address + at, std::min(piece, length - at), writable});
      return parts;
    };
    if (piece > 1) {  // single bytes would not fit the queue
      // Header and data lie in one stretch, so that a buffer holds parts of both.
      disk.put_header(type_out, piece);
      disk.ram.write(header_area + 16, text);
      auto buffers = cut(header_area, 16 + 512, false);
      buffers.push_back({status_area, 1, true});
      disk.ram.store<char>(status_area, untouched);
      CHECK(disk.submit(buffers) == ok);
      CHECK(backend->bytes_.substr(piece * 512, 512) == text);

      backend->bytes_.replace(piece * 512, 512, text);
      disk.put_header(type_in, piece);
      buffers = cut(header_area, 16, false);
      const auto data = cut(body_area, 513, true);  // the status is the 513th byte
      buffers.insert(buffers.end(), data.begin(), data.end());
      disk.ram.store<char>(body_area + 512, untouched);
      disk.submit(buffers);
      CHECK(disk.ram.read(body_area, 512) == text);
      CHECK(disk.ram.load<char>(body_area + 512) == ok);
      CHECK(disk.written == 513);
    } else {
      disk.put_header(type_get_id, 0);
      auto buffers = cut(header_area, 16, false);
      const auto data = cut(body_area, 21, true);
      buffers.insert(buffers.end(), data.begin(), data.end());
      disk.ram.store<char>(body_area + 20, untouched);
      disk.submit(buffers);
      CHECK(disk.ram.load<char>(body_area + 20) == ok);
      CHECK(disk.ram.read(body_area, 9) == "cube-root");
    }
  }
  CHECK(disk.errors == 0);
}

TEST_CASE("requests without header or status end the machine") {
  Disk disk(std::make_shared<MemoryDisk>(disk_bytes));
  disk.put_header(type_in, 0);
  SECTION("no header") { disk.submit({{status_area, 1, true}}); }
  SECTION("a short header") { disk.submit({{header_area, 15, false}, {status_area, 1, true}}); }
  SECTION("no status") { disk.submit({{header_area, 16, false}}); }
  SECTION("nothing at all") { disk.submit({{header_area, 0, false}}); }
  CHECK(disk.errors == 1);
}

TEST_CASE("a failing disk fails requests, not the machine") {
  Disk disk(std::make_shared<BrokenDisk>());
  CHECK(disk.request(type_in, 0, 512) == io_error);
  CHECK(disk.written == 0);
  CHECK(disk.request(type_out, 0, 512) == io_error);
  CHECK(disk.request(type_flush, 0, 0) == io_error);
  CHECK(disk.errors == 0);
}

TEST_CASE("without a disk there is an empty one") {
  Disk disk(nullptr);
  CHECK(disk.config<std::uint64_t>(0) == 0);
  CHECK(disk.request(type_in, 0, 512) == io_error);
  CHECK(disk.request(type_out, 0, 512) == io_error);
  CHECK(disk.request(type_flush, 0, 0) == io_error);
  CHECK(disk.errors == 0);
}

TEST_CASE("random requests do no harm") {
  std::mt19937 random(4);
  auto backend = std::make_shared<MemoryDisk>(disk_bytes);
  auto disk = std::make_unique<Disk>(backend);
  for (int i = 0; i < 3000; ++i) {
    if (disk->errors != 0) disk = std::make_unique<Disk>(backend);
    disk->put_header(random() % 10, random() % 3 == 0 ? random() : random() % 2100);
    std::vector<Buffer> buffers;
    const std::size_t readable = random() % 4, writable = random() % 4;
    for (std::size_t part = 0; part < readable + writable; ++part)
      buffers.push_back({part == 0 ? header_area : body_area + random() % 0x8000,
                         random() % 2 == 0 ? 16u : static_cast<std::uint32_t>(random() % 1100),
                         part >= readable});
    if (!buffers.empty()) disk->submit(buffers);
  }
  CHECK(backend->bytes_.size() == disk_bytes);
}

namespace {

constexpr std::uint32_t receive = 0, transmit = 1;
constexpr std::array<std::uint8_t, 6> mac = {2, 0, 0, 0, 0, 1};

/// A pair of sockets that keep packets apart stands for the tap; the test holds the other end.
struct Net : Driver {
  explicit Net(bool with_tap = true, std::uint64_t features = version_1) {
    std::array<int, 2> ends{-1, -1};
    if (with_tap)
      REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    wire = Fd(ends[0]);
    device = make_net_device(attachment(), context.get_executor(), Fd(ends[1]), mac);
    start(2, features);
  }
  void send(const std::string& packet) const {
    REQUIRE(::write(wire.get(), packet.data(), packet.size()) == static_cast<ssize_t>(packet.size()));
  }
  std::string received() const {
    std::string packet(4096, '\0');
    const ssize_t length = ::read(wire.get(), packet.data(), packet.size());
    packet.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
    return packet;
  }
  Fd wire;
};

const std::string header(12, '\0');

}  // namespace

TEST_CASE("the network device has a MAC address, and a link if it has a tap") {
  Net net;
  CHECK(net.config<std::array<std::uint8_t, 6>>(0) == mac);
  CHECK(net.config<std::uint16_t>(6) == 1);
  CHECK((net.offered() & (1 << 5)) != 0);
  CHECK((net.offered() & 1) != 0);
  Net unplugged(false);
  CHECK(unplugged.config<std::uint16_t>(6) == 0);
  CHECK((unplugged.offered() & 1) == 0);
}

TEST_CASE("packets leave as the guest gave them") {
  Net net;
  net.ram.write(data_area, header + "hello, wire");
  net.rings[transmit].add({{data_area, 12, false}, {data_area + 12, 5, false}, {data_area + 17, 6, false}});
  net.run(transmit);
  REQUIRE(net.rings[transmit].take_used());
  CHECK(net.received() == header + "hello, wire");
}

TEST_CASE("packets the tap does not take are dropped") {
  Net net;
  net.ram.write(data_area, header + "x");
  int returned = 0;
  for (int i = 0; i < 2000; ++i) {  // more than the socket holds
    net.rings[transmit].add({{data_area, 1024, false}});
    net.run(transmit);
    if (net.rings[transmit].take_used()) ++returned;
  }
  CHECK(returned == 2000);
  net.rings[transmit].add({{data_area, 12, false}, {data_area, 70000, false}});
  net.run(transmit);
  CHECK(net.rings[transmit].take_used());
  CHECK(net.errors == 0);
}

TEST_CASE("packets arrive in the buffers the guest gave, whenever it gave them") {
  Net net;
  net.send(header + "early");
  net.settle();
  CHECK(net.rings[receive].used_index() == 0);
  net.rings[receive].add({{data_area, 7, true}, {data_area + 0x100, 2000, true}});
  net.run(receive);
  auto used = net.rings[receive].take_used();
  REQUIRE(used);
  CHECK(used->written == 17);
  CHECK(net.ram.load<std::uint8_t>(data_area + 0x100 + 3) == 1);  // num_buffers, the 11th byte
  CHECK(net.ram.read(data_area + 0x100 + 5, 5) == "early");

  net.rings[receive].add({{data_area, 2000, true}});
  net.run(receive);
  CHECK_FALSE(net.rings[receive].take_used());
  net.send(header + "late");
  net.settle();
  used = net.rings[receive].take_used();
  REQUIRE(used);
  CHECK(net.ram.read(data_area + 12, 4) == "late");
  CHECK(net.interrupts >= 2);
}

TEST_CASE("packets without their header or room for one end the machine") {
  Net net;
  SECTION("sent") {
    net.rings[transmit].add({{data_area, 11, false}});
    net.run(transmit);
  }
  SECTION("received") {
    net.rings[receive].add({{data_area, 11, true}});
    net.run(receive);
  }
  CHECK(net.errors == 1);
}

TEST_CASE("without a tap packets vanish") {
  Net net(false);
  net.rings[receive].add({{data_area + 0x1000, 2000, true}});
  net.run(receive);
  net.rings[transmit].add({{data_area, 100, false}});
  net.run(transmit);
  CHECK(net.rings[transmit].take_used());
  CHECK(net.rings[receive].used_index() == 0);
}

TEST_CASE("packets wait while the network device is quiesced") {
  Net net(true, version_1 | event_index);
  net.rings[receive].add({{data_area, 2000, true}});
  net.run(receive);
  net.device->quiesce();
  net.send(header + "paused");
  net.settle();
  CHECK(net.rings[receive].used_index() == 0);
  net.device->resume();
  net.settle();
  CHECK(net.rings[receive].used_index() == 1);
}

TEST_CASE("a driver that resets while the tap is waited for gets packets again") {
  Net net;
  net.rings[receive].add({{data_area, 2000, true}});
  net.run(receive);
  net.write(Registers::status, 0);
  net.send(header + "one");
  net.settle();
  for (const std::uint32_t i : {receive, transmit})
    std::memset(net.ram.at(0x10000 * (i + 1), 0x4000), 0, 0x4000);
  net.start(2);
  net.rings[receive].add({{data_area, 2000, true}});
  net.run(receive);
  CHECK(net.rings[receive].used_index() == 1);
}

TEST_CASE("shutting down closes the tap") {
  Net net;
  net.rings[receive].add({{data_area, 2000, true}});
  net.run(receive);
  net.device->shut_down();
  net.settle();
  char byte;
  CHECK(::read(net.wire.get(), &byte, 1) == 0);
}

TEST_CASE("entropy fills what it was given, at most 64 KiB") {
  Driver driver;
  driver.device = make_entropy_device(driver.attachment(), driver.context.get_executor());
  driver.start(1);
  Ring& ring = driver.rings[0];
  const std::string zeros(64, '\0');

  ring.add(
      {{data_area, 65536 - 64, true}, {data_area + 0x20000, 65536, true}, {data_area + 0x40000, 64, true}});
  driver.run(0);
  auto used = ring.take_used();
  REQUIRE(used);
  CHECK(used->written == 65536);
  CHECK(driver.ram.read(data_area + 65536 - 128, 64) != zeros);
  CHECK(driver.ram.read(data_area + 0x20000, 64) != zeros);
  CHECK(driver.ram.read(data_area + 0x20000 + 64, 64) == zeros);
  CHECK(driver.ram.read(data_area + 0x40000, 64) == zeros);

  ring.add({{data_area, 100, false}});
  driver.run(0);
  used = ring.take_used();
  REQUIRE(used);
  CHECK(used->written == 0);
}

namespace {

bool resident(const std::byte* page) {
  unsigned char in_core = 0;
  REQUIRE(::mincore(const_cast<std::byte*>(page), 4096, &in_core) == 0);
  return (in_core & 1) != 0;
}

/// How many of the pages take memory of their own: present, and not a file's
/// (Documentation/admin-guide/mm/pagemap.rst).
std::size_t own_pages(const std::byte* begin, std::size_t bytes) {
  std::vector<std::uint64_t> entries(bytes / page_size);
  const auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  REQUIRE(pagemap.ok());
  const std::uint64_t place = reinterpret_cast<std::uintptr_t>(begin) / page_size * sizeof(std::uint64_t);
  REQUIRE(read_exactly(pagemap->get(), std::as_writable_bytes(std::span(entries)), place).ok());
  return static_cast<std::size_t>(std::ranges::count_if(
      entries, [](std::uint64_t entry) { return (entry >> 63 & 1) != 0 && (entry >> 61 & 1) == 0; }));
}

}  // namespace

TEST_CASE("pages the guest reports free go back to the host, whole ones only") {
  Driver driver;
  driver.device = make_balloon_device(driver.attachment(), driver.context.get_executor());
  driver.start(3);
  CHECK((driver.offered() & 0xffffff) == 1 << 5);
  CHECK(driver.config<std::uint64_t>(0) == 0);
  const std::string full(4 * 4096, 'x');
  driver.ram.write(data_area, full);

  for (const std::uint32_t queue : {0u, 1u}) {  // inflate and deflate free nothing
    driver.rings[queue].add({{data_area, 4096, true}});
    driver.run(queue);
    CHECK(driver.rings[queue].take_used());
  }
  CHECK(driver.ram.read(data_area, full.size()) == full);

  driver.rings[2].add({{data_area + 100, 3 * 4096, true}, {data_area + 3 * 4096 + 8, 100, true}});
  driver.run(2);
  CHECK(driver.rings[2].take_used());
  CHECK(resident(driver.ram.at(data_area)));
  CHECK_FALSE(resident(driver.ram.at(data_area + 4096)));
  CHECK_FALSE(resident(driver.ram.at(data_area + 2 * 4096)));
  CHECK(resident(driver.ram.at(data_area + 3 * 4096)));
  CHECK(driver.ram.read(data_area, 4096) == full.substr(0, 4096));
  CHECK(driver.ram.read(data_area + 4096, 2 * 4096) == std::string(2 * 4096, '\0'));
  CHECK(driver.ram.read(data_area + 3 * 4096, 4096) == full.substr(0, 4096));
}

TEST_CASE("reported pages of a mapped image are given back, whatever lies under them") {
  // A base of 'b', a run of 'm' that is large enough to be mapped, one of 'c' that is copied.
  constexpr std::uint64_t memory_bytes = 4 << 20, mapped_at = 2 << 20, mapped_bytes = 128 << 10,
                          copied_at = mapped_at + mapped_bytes, copied_bytes = 3 * 4096;
  const auto file_of = [](char content, std::size_t bytes) {
    Fd file(::memfd_create("image", MFD_CLOEXEC));
    const std::string text(bytes, content);
    REQUIRE(write_exactly(file.get(), std::as_bytes(std::span(text)), 0).ok());
    return file;
  };
  const Fd base = file_of('b', memory_bytes), mapped = file_of('m', mapped_bytes),
           copied = file_of('c', copied_bytes);
  const MemoryImage::Run runs[] = {{mapped_at, mapped_bytes, mapped.get(), 0},
                                   {copied_at, copied_bytes, copied.get(), 0}};
  auto memory = std::make_shared<GuestMemory>(GuestMemory::map_anonymous(memory_bytes).value());
  MemoryImage image;
  image.base_fd = base.get();
  image.runs = runs;
  REQUIRE(memory->map_image(image).ok());

  Driver driver(memory);
  driver.ram.write(0, std::string(1 << 20, '\0'));  // the rings
  driver.device = make_balloon_device(driver.attachment(), driver.context.get_executor());
  driver.start(3);
  const std::uint64_t begin = mapped_at - (64 << 10), bytes = 512 << 10;
  driver.ram.write(begin, std::string(bytes, 'w'));
  REQUIRE(own_pages(driver.ram.at(begin), bytes) == bytes / 4096);

  // From inside the base to the middle of the mapped run; from there to inside the base behind the copied
  // one.
  const std::uint64_t middle = mapped_at + mapped_bytes / 2, end = copied_at + copied_bytes + 4096;
  driver.rings[2].add({{begin + 4096, static_cast<std::uint32_t>(middle - begin - 4096), true},
                       {middle, static_cast<std::uint32_t>(end - middle), true}});
  driver.run(2);
  REQUIRE(driver.rings[2].take_used());
  CHECK(own_pages(driver.ram.at(begin), 4096) == 1);
  CHECK(own_pages(driver.ram.at(begin + 4096), end - begin - 4096) == 0);
  CHECK(own_pages(driver.ram.at(end), begin + bytes - end) == (begin + bytes - end) / 4096);

  // What the guest finds there if it looks is some layer's, which it may: it declared the pages free.
  CHECK(driver.ram.read(begin + 4096, 4096) == std::string(4096, 'b'));
  CHECK(driver.ram.read(mapped_at, mapped_bytes) == std::string(mapped_bytes, 'm'));
  CHECK(driver.ram.read(copied_at, copied_bytes) == std::string(copied_bytes, 'b'));
  CHECK(driver.ram.read(end, 4096) == std::string(4096, 'w'));
  driver.ram.write(begin + 4096, std::string(end - begin - 4096, 'x'));
  CHECK(driver.ram.read(begin + 4096, end - begin - 4096) == std::string(end - begin - 4096, 'x'));
}
