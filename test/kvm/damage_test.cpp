// Memory images that are damaged under running machines: only the machines that use them end.
#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;

namespace {

struct Clone {
  Observer observer;
  Fd image;
  std::unique_ptr<Machine> machine;

  Clone(Host& host, const Machine& parent, const MachineState& state) : image(memory_image(parent)) {
    auto restored = restore(host, observer, state, image);
    if (!restored) FAIL(restored.error().describe());
    machine = std::move(*restored);
  }
};

void check_damaged(Observer& observer) {
  const auto stop = observer.wait_for_stop();
  REQUIRE(stop.has_value());
  CHECK(stop->kind == StopReason::Kind::host_error);
  CHECK(stop->detail.find("its memory image is damaged") != std::string::npos);
}

}  // namespace

TEST_CASE("truncating an image ends the machines that run on it, and no other") {
  Host host;
  Observer observer;
  const auto parent = boot(host, observer, "memory");
  REQUIRE(parent->resume().ok());
  REQUIRE(observer.wait_for_text("rounds at "));
  const std::uint64_t rounds = number_after(observer.console(), "rounds at ");
  REQUIRE(parent->pause().ok());
  const auto state = parent->save();
  REQUIRE(state.ok());

  Clone bystander(host, *parent, *state);
  Clone victim(host, *parent, *state);
  const std::uint64_t at_snapshot = word_at(*parent, rounds);
  for (Clone* clone : {&bystander, &victim}) {
    REQUIRE(clone->machine->resume().ok());
    wait_until_above(*clone->machine, clone->observer, rounds, at_snapshot);
  }
  REQUIRE(::ftruncate(victim.image.get(), 0) == 0);
  check_damaged(victim.observer);
  CHECK(victim.machine->stopped());
  CHECK_FALSE(victim.machine->pause().ok());
  const std::uint64_t seen = word_at(*bystander.machine, rounds);
  wait_until_above(*bystander.machine, bystander.observer, rounds, seen + 1);
  CHECK(bystander.observer.console().empty());
}

TEST_CASE("a paused machine whose image is found damaged does not go on") {
  Host host;
  Observer observer;
  const auto parent = boot(host, observer, "counter");
  REQUIRE(parent->resume().ok());
  REQUIRE(observer.wait_for_text("counter at "));
  REQUIRE(parent->pause().ok());
  const auto state = parent->save();
  REQUIRE(state.ok());

  Clone victim(host, *parent, *state);
  REQUIRE(::ftruncate(victim.image.get(), 0) == 0);
  std::byte any{};
  const auto read = (*victim.machine->memory())->read(32 << 20, std::span(&any, 1));  // as a snapshot would
  REQUIRE_FALSE(read.ok());
  CHECK(read.error().code == ErrorCode::corrupt);
  CHECK(victim.machine->resume().ok());  // nobody has touched the lost pages yet
  check_damaged(victim.observer);
}
