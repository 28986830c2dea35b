#include <asio/executor_work_guard.hpp>
#include <catch2/catch.hpp>
#include <random>

#include "virtio_driver.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::virtio;
using namespace cube::vmm::virtio::test;

namespace {

constexpr std::uint32_t needs_reset = 64, driver_failed = 128;

struct Rng : Driver {
  Rng() { device = make_entropy_device(attachment(), context.get_executor()); }
};

bool all_zero(const std::string& bytes) { return bytes.find_first_not_of('\0') == std::string::npos; }

}  // namespace

TEST_CASE("the window says what it is") {
  Rng driver;
  CHECK(driver.read(Registers::magic) == 0x74726976);
  CHECK(driver.read(Registers::version) == 2);
  CHECK(driver.read(Registers::device_id) == 4);
  CHECK(driver.offered() == (version_1 | event_index | indirect_descriptors));
  CHECK(driver.read(Registers::queue_size_max) == 256);
  driver.write(Registers::queue_select, 1);
  CHECK(driver.read(Registers::queue_size_max) == 0);
}

TEST_CASE("a driver is served and interrupted, and acknowledges") {
  Rng driver;
  driver.start(1);
  CHECK(driver.status() == 15);
  driver.rings[0].add({{data_area, 32, true}});
  driver.run(0);
  const auto used = driver.rings[0].take_used();
  REQUIRE(used);
  CHECK(used->written == 32);
  CHECK_FALSE(all_zero(driver.ram.read(data_area, 32)));
  CHECK(driver.interrupts == 1);
  CHECK(driver.read(Registers::interrupt_status) == 1);
  driver.write(Registers::interrupt_acknowledge, 1);
  CHECK(driver.read(Registers::interrupt_status) == 0);
}

TEST_CASE("status goes one way, one step at a time") {
  Rng driver;
  for (const std::uint32_t value : {2u, 3u, 4u, 8u, 15u, 0x40u, ~0u}) {
    driver.write(Registers::status, value);
    CHECK(driver.status() == 0);
  }
  driver.add_status(1);
  driver.write(Registers::status, 11);
  CHECK(driver.status() == 1);
  driver.add_status(2);
  driver.accept(version_1);
  driver.write(Registers::status, 15);
  CHECK(driver.status() == 3);
  driver.add_status(8);
  CHECK(driver.status() == 11);
  driver.write(Registers::status, 3);
  CHECK(driver.status() == 11);
  driver.add_status(driver_failed);
  CHECK(driver.status() == (11 | driver_failed));
  driver.add_status(4);
  CHECK(driver.status() == (11 | driver_failed));
  driver.write(Registers::status, 0);
  CHECK(driver.status() == 0);
}

TEST_CASE("features are final with FEATURES_OK") {
  Rng driver;
  SECTION("a driver that takes what was not offered finds FEATURES_OK unset") {
    driver.negotiate(version_1 | 1);
    CHECK(driver.status() == 3);
  }
  SECTION("a driver without VIRTIO_F_VERSION_1 needs a reset") {
    driver.negotiate(event_index);
    CHECK(driver.status() == (3 | needs_reset));
    CHECK(driver.read(Registers::interrupt_status) == 2);
    CHECK(driver.interrupts == 1);
    driver.start(1);
    CHECK(driver.status() == 15);
  }
}

TEST_CASE("a queue that cannot be activated needs a reset") {
  Rng driver;
  driver.negotiate(version_1);
  auto layout = layout_at(0x10000, 16);
  SECTION("its size") { layout.size = 5; }
  SECTION("its alignment") { layout.used += 1; }
  SECTION("its place") { layout.descriptors = 0xfffffffffffffff0; }
  driver.set_queue(0, layout);
  driver.add_status(4);
  CHECK(driver.status() == (11 | needs_reset));
  CHECK(driver.interrupts == 1);
  CHECK(driver.errors == 0);
  driver.start(1);
  CHECK(driver.status() == 15);
}

TEST_CASE("a queue size that does not fit its register is none") {
  Rng driver;
  driver.negotiate(version_1);
  driver.set_queue(0, layout_at(0x10000, 16));
  driver.write(Registers::queue_ready, 0);
  driver.write(Registers::queue_size, 65536 + 16);
  driver.write(Registers::queue_ready, 1);
  driver.add_status(4);
  CHECK(driver.status() == (11 | needs_reset));
}

TEST_CASE("queue registers written after activation change nothing") {
  Rng driver;
  driver.start(1);
  driver.write(Registers::queue_select, 0);
  driver.write(Registers::queue_size, 0x8000);
  for (const std::uint64_t base : {Registers::descriptors, Registers::available, Registers::used})
    for (const std::uint64_t part : {0, 4}) driver.write(base + part, 0xfffffff0);
  driver.write(Registers::queue_ready, 0);
  CHECK(driver.read(Registers::queue_ready) == 1);
  driver.rings[0].add({{data_area, 8, true}});
  driver.run(0);
  CHECK(driver.rings[0].take_used());
  CHECK(driver.errors == 0);
}

TEST_CASE("every register takes every width and value in every status") {
  std::mt19937 random(2);
  const auto bombard = [&](Driver& driver) {
    for (std::uint64_t offset = 0; offset < 0x120; ++offset)
      for (const std::size_t width : {1, 2, 4, 8}) {
        if (offset == Registers::status) continue;
        std::array<std::byte, 8> bytes;
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
        driver.device->write(offset, std::span(bytes).first(width));
        driver.device->read(offset, std::span(bytes).first(width));
      }
    driver.settle();
  };
  for (const std::uint32_t reached : {0u, 1u, 3u, 11u, 15u}) {
    Rng driver;
    driver.device->resume();
    for (const std::uint32_t bit : {1u, 2u, 8u, 4u}) {
      if ((reached & bit) == 0) break;
      driver.add_status(bit);
      if (bit == 2) driver.accept(version_1);
      if (bit == 8) driver.set_queue(0, layout_at(0x10000, 16));
    }
    REQUIRE(driver.status() == reached);
    bombard(driver);
    CHECK(driver.status() == reached);
    CHECK(driver.errors == 0);
    driver.write(Registers::status, 0);
    CHECK(driver.status() == 0);
  }
}

TEST_CASE("kicks of queues that are not there or not set up are ignored") {
  Rng driver;
  driver.device->resume();
  for (const std::uint32_t queue : {0u, 1u, 63u, 64u, 0xffffffffu}) driver.run(queue);
  driver.start(1);
  for (const std::uint32_t queue : {1u, 64u, 0x80000000u}) driver.run(queue);
  CHECK(driver.errors == 0);
}

TEST_CASE("requests that were there before DRIVER_OK or before resume are served") {
  Rng driver;
  driver.negotiate(version_1);
  driver.rings.emplace_back(driver.ram, layout_at(0x10000, 16));
  driver.set_queue(0, driver.rings[0].layout());
  driver.rings[0].add({{data_area, 8, true}});
  driver.run(0);
  driver.add_status(4);
  driver.settle();
  CHECK(driver.rings[0].used_index() == 0);  // a device starts quiesced
  driver.device->resume();
  driver.settle();
  CHECK(driver.rings[0].used_index() == 1);
}

TEST_CASE("a guest that breaks the rules ends its machine, once") {
  Rng driver;
  driver.start(1);
  driver.rings[0].set_available(1000);
  driver.run(0);
  CHECK(driver.errors == 1);
  CHECK(driver.last_error.code == ErrorCode::guest);
  CHECK((driver.status() & needs_reset) != 0);
  driver.run(0);
  driver.device->quiesce();
  driver.device->resume();
  driver.settle();
  CHECK(driver.errors == 1);
  driver.write(Registers::status, 0);
  CHECK((driver.status() & needs_reset) != 0);
}

TEST_CASE("more work than a drain takes is all done, in bounded pieces") {
  Rng driver;
  driver.start(1, version_1, 256);
  for (int round = 0; round < 4; ++round) {
    for (std::uint16_t i = 0; i < 256; ++i) driver.rings[0].add({{data_area, 8, true}}, i);
    driver.run(0);
    for (int i = 0; i < 256; ++i) REQUIRE(driver.rings[0].take_used());
  }
  CHECK(driver.errors == 0);
}

TEST_CASE("pauses lose no kick") {
  constexpr int requests = 2000;
  const std::uint64_t features = version_1 | GENERATE(as<std::uint64_t>{}, 0, event_index);
  Rng driver;
  driver.start(1, features);
  REQUIRE(driver.status() == 15);
  driver.context.restart();
  auto work = asio::make_work_guard(driver.context);
  std::jthread worker([&] { driver.context.run(); });
  std::atomic<bool> finished = false;
  std::jthread vcpu([&] {
    Ring& ring = driver.rings[0];
    for (int i = 0; i < requests; ++i) {
      ring.add({{data_area, 8, true}});
      driver.kick(0);
      while (!ring.take_used()) std::this_thread::yield();
    }
    finished = true;
  });
  while (!finished) {
    driver.device->quiesce();
    const std::uint16_t before = driver.rings[0].used_index();
    std::this_thread::yield();
    if (driver.rings[0].used_index() != before) FAIL("a quiesced device worked");
    driver.device->resume();
    while (!finished && driver.rings[0].used_index() == before) std::this_thread::yield();
  }
  vcpu.join();
  work.reset();
  driver.context.stop();
  worker.join();
  CHECK(driver.rings[0].used_index() == requests);
  CHECK(driver.errors == 0);
}

TEST_CASE("nothing happens after shut_down") {
  Rng driver;
  driver.start(1);
  SECTION("to a request whose drain was posted") {
    driver.rings[0].add({{data_area, 8, true}});
    driver.kick(0);
  }
  SECTION("to a ring that is broken") {
    driver.rings[0].set_available(1000);
    driver.kick(0);
  }
  driver.device->shut_down();
  driver.settle();
  driver.run(0);
  driver.device->resume();
  driver.settle();
  driver.write(Registers::status, 0);
  driver.negotiate(event_index);
  CHECK(driver.rings[0].used_index() == 0);
  CHECK(driver.interrupts == 0);
  CHECK(driver.errors == 0);
  driver.device->shut_down();
}

TEST_CASE("a saved device goes on in another machine") {
  Rng first;
  first.start(1, version_1 | event_index);
  for (int i = 0; i < 3; ++i) {
    first.rings[0].add({{data_area, 8, true}});
    first.run(0);
    REQUIRE(first.rings[0].take_used());
  }
  first.device->quiesce();
  first.rings[0].add({{data_area, 8, true}});  // came with the pause: no kick will follow
  const std::string state = first.device->save();

  Driver second(first.ram.memory());
  second.device = make_entropy_device(second.attachment(), second.context.get_executor());
  REQUIRE(second.device->restore(state).ok());
  CHECK(second.device->save() == state);
  CHECK(second.status() == 15);
  CHECK(second.read(Registers::interrupt_status) == 1);
  second.device->resume();
  second.settle();
  CHECK(first.rings[0].take_used());
  CHECK(second.errors == 0);
}

TEST_CASE("damaged states are refused") {
  Rng driver;
  driver.start(1);
  driver.device->quiesce();
  const std::string state = driver.device->save();
  const auto restore = [&](std::string_view bytes) {
    auto device = make_entropy_device(driver.attachment(), driver.context.get_executor());
    auto done = device->restore(bytes);
    device->resume();
    driver.settle();
    device->shut_down();
    return done;
  };
  REQUIRE(restore(state).ok());
  for (std::size_t length = 0; length < state.size(); ++length) {
    const auto done = restore(std::string_view(state).substr(0, length));
    REQUIRE_FALSE(done.ok());
    CHECK(done.error().code == ErrorCode::corrupt);
  }
  CHECK_FALSE(restore(state + "x").ok());
  const auto with = [&](std::size_t offset, std::uint32_t value) {
    std::string changed = state;
    std::memcpy(changed.data() + offset, &value, sizeof value);
    return changed;
  };
  CHECK_FALSE(restore(with(0, 5)).ok());            // another device
  CHECK_FALSE(restore(with(4, 14)).ok());           // a status without ACKNOWLEDGE
  CHECK_FALSE(restore(with(8, 1)).ok());            // a feature not offered
  CHECK_FALSE(restore(with(12, 0)).ok());           // without VIRTIO_F_VERSION_1
  CHECK_FALSE(restore(with(16, 4)).ok());           // an unknown interrupt
  CHECK_FALSE(restore(with(36, 2)).ok());           // two queues
  CHECK_FALSE(restore(with(40, 0x1002)).ok());      // neither ready nor not
  CHECK_FALSE(restore(with(43, 0x7fffffff)).ok());  // a misplaced descriptor table

  // Random damage may go unnoticed here, the machine's checksum finds it; it must not do harm.
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string changed = state;
    changed[random() % changed.size()] = static_cast<char>(random());
    (void)restore(changed).ok();
  }
}
