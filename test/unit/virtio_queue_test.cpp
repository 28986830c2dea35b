#include <catch2/catch.hpp>
#include <random>

#include "virtio_driver.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::virtio;
using namespace cube::vmm::virtio::test;

namespace {

constexpr std::uint64_t ring_address = 0x10000;

struct Fixture {
  explicit Fixture(bool events = false, std::uint16_t size = 16) : ring(ram, layout_at(ring_address, size)) {
    REQUIRE(queue.activate(ram.memory(), ring.layout(), events, {}).ok());
  }
  bool pop_breaks() {
    const auto popped = queue.pop(chain);
    return !popped && popped.error().code == ErrorCode::guest;
  }
  bool pops() {
    const auto popped = queue.pop(chain);
    return popped.ok() && *popped;
  }

  Ram ram{make_memory()};
  Ring ring;
  Queue queue;
  Chain chain;
};

bool inside(const Ram& ram, const iovec& buffer) {
  const auto host = ram.memory()->regions()[0].host;
  const auto* begin = static_cast<const std::byte*>(buffer.iov_base);
  return begin >= host.data() && begin + buffer.iov_len <= host.data() + host.size();
}

bool refuses(const Queue::Layout& layout) {
  Queue queue;
  const auto done = queue.activate(make_memory(1 << 20), layout, true, {});
  return !done.ok() && done.error().code == ErrorCode::guest && !queue.active();
}

}  // namespace

TEST_CASE("a chain arrives with its buffers in order and returns through the used ring") {
  Fixture f;
  f.ring.add({{data_area, 16, false}, {data_area + 100, 512, true}, {data_area + 1000, 1, true}}, 3);
  REQUIRE(f.pops());
  CHECK(f.chain.head == 3);
  CHECK(f.chain.readable_bytes == 16);
  CHECK(f.chain.writable_bytes == 513);
  REQUIRE(f.chain.writable.size() == 2);
  CHECK(f.chain.writable[0].iov_base == f.ram.at(data_area + 100));
  CHECK(f.chain.writable[1].iov_base == f.ram.at(data_area + 1000));
  CHECK_FALSE(f.pops());

  f.queue.push(3, 513);
  const auto used = f.ring.take_used();
  REQUIRE(used);
  CHECK(used->head == 3);
  CHECK(used->written == 513);
  CHECK_FALSE(f.ring.take_used());
}

TEST_CASE("the ring's indices wrap") {
  Fixture f(false, 4);
  for (int i = 0; i < 70000; ++i) {
    f.ring.add({{data_area, 1, true}}, static_cast<std::uint16_t>(i % 4));
    if (!f.pops()) FAIL("nothing popped in round " << i);
    f.queue.push(f.chain.head, 1);
    const auto used = f.ring.take_used();
    if (!used || used->head != static_cast<std::uint32_t>(i % 4)) FAIL("nothing used in round " << i);
  }
}

TEST_CASE("an indirect table ends a chain and may be longer than the queue") {
  Fixture f(false, 4);
  constexpr std::uint64_t table = data_area + 0x1008;  // only descriptor tables of queues are aligned
  constexpr std::uint16_t entries = 200;
  for (std::uint16_t i = 0; i < entries; ++i) {
    const Descriptor descriptor{data_area + 0x4000 + i * 8u, 8,
                                static_cast<std::uint16_t>(i + 1 < entries ? next_flag : 0),
                                static_cast<std::uint16_t>(i + 1)};
    std::memcpy(f.ram.at(table + 16 * i, 16), &descriptor, 16);
  }
  f.ring.describe(0, {data_area, 4, next_flag, 1});
  f.ring.describe(1, {table, 16 * entries, indirect_flag, 0});
  f.ring.offer(0);
  REQUIRE(f.pops());
  CHECK(f.chain.readable.size() == entries + 1);
  CHECK(f.chain.readable_bytes == 4 + 8 * entries);
}

TEST_CASE("a chain put back is popped again") {
  Fixture f;
  f.ring.add({{data_area, 1, true}}, 5);
  REQUIRE(f.pops());
  f.queue.undo_pop();
  REQUIRE(f.pops());
  CHECK(f.chain.head == 5);
}

TEST_CASE("empty buffers are skipped") {
  Fixture f;
  f.ring.add({{~0ull, 0, false}, {data_area, 4, false}, {data_area, 0, true}});
  REQUIRE(f.pops());
  CHECK(f.chain.readable.size() == 1);
  CHECK(f.chain.writable.empty());
}

TEST_CASE("queues that cannot be are refused at activation") {
  const auto layout = [](std::uint16_t size, std::uint64_t descriptors, std::uint64_t available,
                         std::uint64_t used) {
    return Queue::Layout{size, descriptors, available, used};
  };
  for (const int size : {0, 3, 5, 255, 512, 32768, 65535})
    CHECK(refuses(layout(static_cast<std::uint16_t>(size), 0x1000, 0x3000, 0x5000)));
  CHECK(refuses(layout(16, 0x1008, 0x3000, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0x3001, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0x3000, 0x5002)));
  CHECK(refuses(layout(16, 0x100000, 0x3000, 0x5000)));
  CHECK(refuses(layout(16, 0xfff10, 0x3000, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0xfffda + 2, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0x3000, 0xfff7c)));
  CHECK(refuses(layout(16, ~0ull << 4, 0x3000, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, mmio_gap_start, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0x10fe, 0x5000)));
  CHECK(refuses(layout(16, 0x1000, 0x3000, 0x1000)));
  CHECK(refuses(layout(16, 0x1000, 0x3000, 0x3024)));
  CHECK_FALSE(refuses(layout(16, 0x1000, 0x1100, 0x1128)));
  CHECK_FALSE(refuses(layout(16, 0xfff00, 0x3000, 0x5000)));
}

TEST_CASE("broken rings are errors, not loops") {
  Fixture f;
  SECTION("an available index further ahead than the queue is long") {
    f.ring.set_available(17);
    CHECK(f.pop_breaks());
  }
  SECTION("an available index that went back") {
    f.ring.set_available(0xffff);
    CHECK(f.pop_breaks());
  }
  SECTION("a head past the table") {
    f.ring.offer(16);
    CHECK(f.pop_breaks());
  }
  SECTION("a next past the table") {
    f.ring.describe(0, {data_area, 1, next_flag, 16});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("a descriptor that follows itself") {
    f.ring.describe(0, {data_area, 1, next_flag, 0});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("a loop") {
    for (std::uint16_t i = 0; i < 16; ++i)
      f.ring.describe(i, {data_area, 1, next_flag, static_cast<std::uint16_t>((i + 1) % 16)});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("a readable buffer after a writable one") {
    f.ring.add({{data_area, 1, true}, {data_area, 1, false}});
    CHECK(f.pop_breaks());
  }
  SECTION("buffers outside memory") {
    const auto [address, length] = GENERATE(table<std::uint64_t, std::uint32_t>({{4 << 20, 1},
                                                                                 {(4 << 20) - 1, 2},
                                                                                 {~0ull, 1},
                                                                                 {~0ull, 0xffffffff},
                                                                                 {0, 0xffffffff},
                                                                                 {mmio_gap_start, 4096},
                                                                                 {mmio_gap_end, 1}}));
    f.ring.add({{address, length, false}});
    CHECK(f.pop_breaks());
  }
}

TEST_CASE("broken indirect tables are errors") {
  Fixture f;
  const std::uint64_t self = f.ring.layout().descriptors;
  SECTION("one that points to itself") {
    f.ring.describe(0, {self, 16, indirect_flag, 0});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("one inside another") {
    const Descriptor inner{data_area + 64, 16, indirect_flag, 0};
    std::memcpy(f.ram.at(data_area, 16), &inner, 16);
    f.ring.describe(0, {data_area, 16, indirect_flag, 0});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("one that loops") {
    const Descriptor looping{data_area, 1, next_flag, 0};
    std::memcpy(f.ram.at(data_area, 16), &looping, 16);
    f.ring.describe(0, {data_area, 16, indirect_flag, 0});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("one that goes on after it") {
    f.ring.describe(0, {data_area, 16, indirect_flag | next_flag, 1});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
  SECTION("wrong sizes and places") {
    const auto [address, length] = GENERATE(table<std::uint64_t, std::uint32_t>({{data_area, 0},
                                                                                 {data_area, 8},
                                                                                 {data_area, 17},
                                                                                 {data_area, 257 * 16},
                                                                                 {data_area, 0xfffffff0},
                                                                                 {data_area + 4, 16},
                                                                                 {4 << 20, 16},
                                                                                 {~0ull - 15, 16}}));
    f.ring.describe(0, {address, length, indirect_flag, 0});
    f.ring.offer(0);
    CHECK(f.pop_breaks());
  }
}

TEST_CASE("a request of 4 GiB is refused though its buffers are in memory") {
  const Ram ram(make_memory(3ull << 30));
  Ring ring(ram, layout_at(ring_address, 16));
  Queue queue;
  REQUIRE(queue.activate(ram.memory(), ring.layout(), false, {}).ok());
  ring.add({{data_area, 0x80000000, true}, {data_area, 0x80000000, true}});
  Chain chain;
  const auto popped = queue.pop(chain);
  REQUIRE_FALSE(popped.ok());
  CHECK(popped.error().code == ErrorCode::guest);
}

TEST_CASE("whatever the rings hold, buffers stay inside memory") {
  std::mt19937_64 random(1);
  const auto small = [&](std::uint64_t below) { return random() % below; };
  Ram ram(make_memory());
  int popped_chains = 0;
  for (int round = 0; round < 3000; ++round) {
    Ring ring(ram, layout_at(ring_address, 16));
    Queue queue;
    REQUIRE(queue.activate(ram.memory(), ring.layout(), round % 2 == 0, {}).ok());
    for (std::uint16_t i = 0; i < 16; ++i) {
      const std::uint64_t address = small(8) == 0 ? random() : small(5 << 20);
      const auto length = static_cast<std::uint32_t>(small(8) == 0 ? random() : small(0x2000));
      ring.describe(i, {small(6) == 0 ? ring_address : address, small(6) == 0 ? 256u : length,
                        static_cast<std::uint16_t>(small(8)), static_cast<std::uint16_t>(small(17))});
    }
    for (int i = 0; i < 8; ++i) ring.offer(static_cast<std::uint16_t>(small(17)));
    Chain chain;
    for (int i = 0; i < 16; ++i) {
      const auto popped = queue.pop(chain);
      if (!popped || !*popped) break;
      ++popped_chains;
      std::uint64_t bytes = 0;
      for (const auto* side : {&chain.readable, &chain.writable})
        for (const iovec& buffer : *side) {
          if (!inside(ram, buffer)) FAIL("a buffer outside memory");
          bytes += buffer.iov_len;
        }
      if (bytes != chain.readable_bytes + chain.writable_bytes) FAIL("a wrong sum");
      queue.push(chain.head, 0);
    }
  }
  CHECK(popped_chains > 100);
}

TEST_CASE("a descriptor that changes while it is read is taken as one or the other") {
  Fixture f;
  std::atomic<bool> done = false;
  std::byte* descriptor = f.ram.at(f.ring.layout().descriptors, 16);
  f.ring.describe(0, {data_area, 64, 0, 0});
  std::jthread guest([&] {
    while (!done) {
      // As a vCPU would write them: the address and the length, each at once.
      __atomic_store_n(reinterpret_cast<std::uint64_t*>(descriptor), ~0ull - 4096, __ATOMIC_RELAXED);
      __atomic_store_n(reinterpret_cast<std::uint64_t*>(descriptor), data_area, __ATOMIC_RELAXED);
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(descriptor + 8), 0xffffffffu, __ATOMIC_RELAXED);
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(descriptor + 8), 64u, __ATOMIC_RELAXED);
    }
  });
  for (int i = 0; i < 20000; ++i) {
    f.ring.offer(0);
    const auto popped = f.queue.pop(f.chain);
    if (!popped) {
      f.queue.deactivate();
      REQUIRE(
          f.queue.activate(f.ram.memory(), f.ring.layout(), false, {static_cast<std::uint16_t>(i + 1), 0, 0})
              .ok());
      continue;
    }
    if (!*popped || f.chain.readable.size() != 1) FAIL("no chain");
    if (!inside(f.ram, f.chain.readable[0]) || f.chain.readable[0].iov_len != 64) FAIL("a mixed buffer");
  }
  done = true;
}

TEST_CASE("interrupts follow the driver's flag or used_event") {
  SECTION("the flag") {
    Fixture f;
    CHECK_FALSE(f.queue.needs_interrupt());
    f.queue.push(0, 0);
    CHECK(f.queue.needs_interrupt());
    CHECK_FALSE(f.queue.needs_interrupt());
    f.ring.set_no_interrupt(true);
    f.queue.push(0, 0);
    CHECK_FALSE(f.queue.needs_interrupt());
  }
  SECTION("the event index") {
    Fixture f(true);
    f.ring.set_used_event(2);
    f.queue.push(0, 0);
    CHECK_FALSE(f.queue.needs_interrupt());
    f.queue.push(0, 0);
    CHECK_FALSE(f.queue.needs_interrupt());
    f.queue.push(0, 0);
    CHECK(f.queue.needs_interrupt());
    f.queue.push(0, 0);
    CHECK_FALSE(f.queue.needs_interrupt());
  }
}

TEST_CASE("kicks are asked for again without losing what came meanwhile") {
  const bool events = GENERATE(false, true);
  Fixture f(events);
  f.queue.disable_kicks();
  if (!events) CHECK_FALSE(f.ring.kicks_wanted());
  f.ring.add({{data_area, 1, true}});
  CHECK(f.queue.enable_kicks());
  REQUIRE(f.pops());
  CHECK_FALSE(f.queue.enable_kicks());
  if (events)
    CHECK(f.ring.kick_event() == 1);
  else
    CHECK(f.ring.kicks_wanted());
}

TEST_CASE("buffers are copied and cut at any offset") {
  std::string a = "abc", b, c = "defgh";
  const std::vector<iovec> buffers = {{a.data(), a.size()}, {b.data(), 0}, {c.data(), c.size()}};
  const std::string all = "abcdefgh";
  for (std::size_t offset = 0; offset <= all.size() + 1; ++offset)
    for (std::size_t length = 0; length <= all.size() + 1; ++length) {
      const std::string expected = offset < all.size() ? all.substr(offset, length) : "";
      std::string out(length, '.');
      const std::size_t copied = copy_from(buffers, offset, std::as_writable_bytes(std::span(out)));
      CHECK(out.substr(0, copied) == expected);
      std::string sliced;
      for (const iovec& part : slice_buffers(buffers, offset, length))
        sliced.append(static_cast<const char*>(part.iov_base), part.iov_len);
      CHECK(sliced == expected);
    }
  CHECK(copy_to(buffers, 2, std::as_bytes(std::span("XYZ", 3))) == 3);
  CHECK(a + c == "abXYZfgh");
}
