// The monitor on a real /dev/kvm with tiny guests: boot, devices, pause, save, restore, copy-on-write,
// hostility.
#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;

namespace {

class MemoryDisk : public BlockBackend {
 public:
  explicit MemoryDisk(std::size_t bytes) : bytes_(bytes) {}
  std::uint64_t capacity_bytes() const override { return bytes_.size(); }
  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    const std::scoped_lock lock(mutex_);
    for (const iovec& piece : into) {
      std::memcpy(piece.iov_base, bytes_.data() + offset, piece.iov_len);
      offset += piece.iov_len;
    }
    return {};
  }
  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    const std::scoped_lock lock(mutex_);
    for (const iovec& piece : from) {
      std::memcpy(bytes_.data() + offset, piece.iov_base, piece.iov_len);
      offset += piece.iov_len;
    }
    return {};
  }
  Result<void> flush() override { return {}; }

  void put(std::size_t sector, std::string_view text) {
    std::memcpy(bytes_.data() + 512 * sector, text.data(), text.size());
  }
  std::string text_at(std::size_t sector) {
    const std::scoped_lock lock(mutex_);
    return std::string(bytes_.data() + 512 * sector);
  }

 private:
  std::mutex mutex_;
  std::vector<char> bytes_;
};

}  // namespace

TEST_CASE("a guest boots, speaks and resets") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "hello");
  REQUIRE(machine->resume().ok());
  const auto stop = observer.wait_for_stop();
  REQUIRE(stop.has_value());
  CHECK(stop->kind == StopReason::Kind::reset);
  CHECK(observer.console() == "hello from the guest\n");
}

TEST_CASE("a triple fault ends the machine, not the process") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "triple_fault");
  REQUIRE(machine->resume().ok());
  const auto stop = observer.wait_for_stop();
  REQUIRE(stop.has_value());
  // Some emulated KVMs report the fault as an instruction they cannot run.
  CHECK((stop->kind == StopReason::Kind::reset || stop->kind == StopReason::Kind::guest_error));
}

TEST_CASE("a paused machine stands still and goes on where it was") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "counter");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("counter at "));
  const std::uint64_t counter = number_after(observer.console(), "counter at ");
  std::uint64_t before = 0;
  for (int round = 0; round < 20; ++round) {
    REQUIRE(machine->pause().ok());
    const std::uint64_t now = word_at(*machine, counter);
    CHECK(now >= before);
    CHECK(word_at(*machine, counter) == now);
    before = now;
    REQUIRE(machine->resume().ok());
    wait_until_above(*machine, observer, counter, now);
  }
  CHECK(observer.console().find("lost") == std::string::npos);
}

TEST_CASE("clones of a snapshot keep every register and write only to their own memory") {
  Host host;
  Observer parent_observer;
  const auto parent = boot(host, parent_observer, "counter");
  REQUIRE(parent->resume().ok());
  REQUIRE(parent_observer.wait_for_text("counter at "));
  const std::uint64_t counter = number_after(parent_observer.console(), "counter at ");
  wait_until_above(*parent, parent_observer, counter, 1000);
  REQUIRE(parent->pause().ok());
  const std::uint64_t at_snapshot = word_at(*parent, counter);
  const auto state = parent->save();
  REQUIRE(state.ok());
  const Fd image = memory_image(*parent);

  Observer observers[2];
  std::unique_ptr<Machine> clones[2];
  for (int i = 0; i < 2; ++i) {
    auto clone = restore(host, observers[i], *state, image);
    if (!clone) FAIL(clone.error().describe());
    clones[i] = std::move(*clone);
    CHECK(word_at(*clones[i], counter) == at_snapshot);
    REQUIRE(clones[i]->resume().ok());
  }
  for (int i = 0; i < 2; ++i) wait_until_above(*clones[i], observers[i], counter, at_snapshot + 1000);
  for (const auto& clone : clones) REQUIRE(clone->pause().ok());
  CHECK(observers[0].console().empty());
  CHECK(observers[1].console().empty());

  std::uint64_t in_image = 0;
  REQUIRE(read_exactly(image.get(), std::as_writable_bytes(std::span(&in_image, 1)), counter).ok());
  CHECK(in_image == at_snapshot);
  CHECK(word_at(*parent, counter) == at_snapshot);
}

TEST_CASE("vector registers are part of a snapshot") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "vector");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("counter at "));
  const std::uint64_t counter = number_after(observer.console(), "counter at ");
  while (word_at(*machine, counter) < 1000) {
    if (const auto stop = observer.stop()) {
      WARN("this KVM does not run vector instructions of such a guest: " << stop->detail);
      return;
    }
    std::this_thread::yield();
  }
  REQUIRE(machine->pause().ok());
  const auto state = machine->save();
  REQUIRE(state.ok());
  Observer heir;
  const auto clone = restore(host, heir, *state, memory_image(*machine));
  if (!clone) FAIL(clone.error().describe());
  REQUIRE((*clone)->resume().ok());
  wait_until_above(**clone, heir, counter, word_at(*machine, counter) + 1000);
  CHECK(heir.console().empty());
}

TEST_CASE("a chain of ten snapshots loses nothing") {
  Host host;
  Observer observer;
  auto machine = boot(host, observer, "counter");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("counter at "));
  const std::uint64_t counter = number_after(observer.console(), "counter at ");
  std::array<Observer, 10> heirs;
  Observer* watched = &observer;
  for (Observer& heir : heirs) {
    wait_until_above(*machine, *watched, counter, word_at(*machine, counter));
    REQUIRE(machine->pause().ok());
    const auto state = machine->save();
    REQUIRE(state.ok());
    auto next = restore(host, heir, *state, memory_image(*machine));
    if (!next) FAIL(next.error().describe());
    CHECK(word_at(**next, counter) == word_at(*machine, counter));
    machine = std::move(*next);
    watched = &heir;
    REQUIRE(machine->resume().ok());
  }
  wait_until_above(*machine, *watched, counter, word_at(*machine, counter));
  for (Observer& heir : heirs) CHECK(heir.console().empty());
}

TEST_CASE("many clones at once keep their memory apart") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "memory");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("rounds at "));
  const std::uint64_t rounds = number_after(observer.console(), "rounds at ");
  REQUIRE(machine->pause().ok());
  const auto state = machine->save();
  REQUIRE(state.ok());
  const Fd image = memory_image(*machine);
  std::array<Observer, 12> observers;
  std::vector<std::unique_ptr<Machine>> clones;
  for (Observer& each : observers) {
    auto clone = restore(host, each, *state, image);
    if (!clone) FAIL(clone.error().describe());
    clones.push_back(std::move(*clone));
    REQUIRE(clones.back()->resume().ok());
  }
  for (std::size_t i = 0; i < clones.size(); ++i)
    wait_until_above(*clones[i], observers[i], rounds, word_at(*machine, rounds) + 3);
  for (Observer& each : observers) {
    CHECK(each.console().empty());
    CHECK_FALSE(each.stop().has_value());
  }
}

TEST_CASE("the local APIC's timer goes on ticking in a clone") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "timer");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("ticks at "));
  const std::uint64_t ticks = number_after(observer.console(), "ticks at ");
  wait_until_above(*machine, observer, ticks, 2);
  REQUIRE(machine->pause().ok());
  const std::uint64_t at_snapshot = word_at(*machine, ticks);
  const auto state = machine->save();
  REQUIRE(state.ok());
  Observer clone_observer;
  auto clone = restore(host, clone_observer, *state, memory_image(*machine));
  if (!clone) FAIL(clone.error().describe());
  REQUIRE((*clone)->resume().ok());
  wait_until_above(**clone, clone_observer, ticks, at_snapshot + 2);
}

TEST_CASE("a guest's driver reads and writes its disk") {
  Host host;
  Observer observer;
  const auto disk = std::make_shared<MemoryDisk>(64 << 10);
  disk->put(0, "first\n");
  disk->put(1, "second\n");
  MachineConfig config;
  config.root_disk = disk;
  const auto machine = boot(host, observer, "disk", std::move(config));
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_stop().has_value());
  CHECK(observer.console() == "first\nsecond\ndone\n");
  CHECK(disk->text_at(64) == "first\n");
  CHECK(disk->text_at(65) == "second\n");
}

TEST_CASE("device state survives a snapshot taken between any two requests") {
  Host host;
  Observer observer;
  const auto disk = std::make_shared<MemoryDisk>(64 << 10);
  for (std::size_t sector = 0; sector < 8; ++sector)
    disk->put(sector, "sector " + std::to_string(sector) + "\n");
  MachineConfig config;
  config.root_disk = disk;
  auto machine = boot(host, observer, "disk", std::move(config));
  REQUIRE(machine->resume().ok());
  Observer heirs[4];
  std::string said;
  Observer* speaker = &observer;
  for (Observer& heir : heirs) {
    if (!machine->pause().ok()) break;  // it came to its end already
    said += speaker->console();
    const auto state = machine->save();
    REQUIRE(state.ok());
    MachineConfig again;
    again.root_disk = disk;
    auto next = restore(host, heir, *state, memory_image(*machine), std::move(again));
    if (!next) FAIL(next.error().describe());
    machine = std::move(*next);
    speaker = &heir;
    REQUIRE(machine->resume().ok());
  }
  REQUIRE(speaker->wait_for_stop().has_value());
  said += speaker->console();
  CHECK(said.find("cannot") == std::string::npos);
  CHECK(said.ends_with("done\n"));
  for (std::size_t sector = 0; sector < 8; ++sector)
    CHECK(disk->text_at(sector + 64) == "sector " + std::to_string(sector) + "\n");
}

TEST_CASE("garbage in every device register harms only the guest that wrote it") {
  Host host;
  Observer bystander_observer;
  const auto bystander = boot(host, bystander_observer, "counter");
  REQUIRE(bystander->resume().ok());
  REQUIRE(bystander_observer.wait_for_text("counter at "));
  Observer observer;
  const auto disk = std::make_shared<MemoryDisk>(64 << 10);
  MachineConfig config;
  config.root_disk = disk;
  const auto machine = boot(host, observer, "hostile", std::move(config));
  REQUIRE(machine->resume().ok());
  const auto stop = observer.wait_for_stop();
  REQUIRE(stop.has_value());
  CHECK((stop->kind == StopReason::Kind::reset || stop->kind == StopReason::Kind::guest_error));
  const std::uint64_t counter = number_after(bystander_observer.console(), "counter at ");
  const std::uint64_t seen = word_at(*bystander, counter);
  wait_until_above(*bystander, bystander_observer, counter, seen);
}

TEST_CASE("a damaged state is refused with a reason") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "counter");
  REQUIRE(machine->resume().ok());
  REQUIRE(observer.wait_for_text("counter at "));
  REQUIRE(machine->pause().ok());
  const auto state = machine->save();
  REQUIRE(state.ok());
  const Fd image = memory_image(*machine);
  Observer unused;
  for (std::size_t at = 0; at < state->bytes.size(); at += 97) {
    MachineState damaged = *state;
    damaged.bytes[at] = static_cast<char>(damaged.bytes[at] ^ 1);
    const auto refused = restore(host, unused, damaged, image);
    REQUIRE_FALSE(refused.ok());
    CHECK_FALSE(refused.error().message.empty());
  }
  for (std::size_t length = 0; length < state->bytes.size(); length += 331)
    REQUIRE_FALSE(restore(host, unused, {state->bytes.substr(0, length)}, image).ok());
  const Fd half(::memfd_create("half", MFD_CLOEXEC));
  REQUIRE(::ftruncate(half.get(), 32 << 20) == 0);
  const auto refused = restore(host, unused, *state, half);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::corrupt);
}

TEST_CASE("files that are no kernel are refused") {
  Host host;
  for (const char* path : {"/dev/null", "/etc/passwd", "/bin/true"}) {
    const Fd kernel(::open(path, O_RDONLY | O_CLOEXEC));
    MachineConfig config;
    config.memory_bytes = 64 << 20;
    const auto machine =
        make_shell(host)->boot(host.executors(), std::move(config), {kernel.get(), ""});
    CHECK_FALSE(machine.ok());
  }
}

TEST_CASE("machines that come and go leave nothing behind") {
  Host host;
  const auto run_some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      Observer observer;
      const auto machine = boot(host, observer, i % 2 == 0 ? "hello" : "counter");
      REQUIRE(machine->resume().ok());
      if (i % 2 == 0) REQUIRE(observer.wait_for_stop().has_value());
    }
  };
  run_some(4);  // thread stacks and arenas that are kept for reuse
  const std::size_t descriptors = open_descriptors();
  const std::size_t maps = lines_of("/proc/self/maps");
  run_some(100);
  CHECK(falls_to(descriptors, open_descriptors));
  CHECK(mappings_fall_to(maps + 8));
}
