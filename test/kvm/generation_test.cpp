// The VM generation ID: a copy of a guest hears that it is one.
#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;

namespace {

using GenerationId = std::array<std::uint8_t, 16>;

GenerationId id_of(const Machine& machine) {
  GenerationId id;
  read_memory(machine, 0xf0000, std::as_writable_bytes(std::span(id)));
  return id;
}

constexpr GenerationId first{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
constexpr GenerationId second{0xff, 0xee, 0xdd};

}  // namespace

TEST_CASE("a new generation finds its id and one interrupt, and the same guest neither") {
  Host host;
  Observer observer;
  MachineConfig config;
  config.generation_id = first;
  const auto parent = boot(host, observer, "generation", std::move(config));
  CHECK(id_of(*parent) == first);
  REQUIRE(parent->resume().ok());
  REQUIRE(observer.wait_for_text("generations at "));
  const std::uint64_t generations = number_after(observer.console(), "generations at ");
  const std::uint64_t steps = generations + 8;
  wait_until_above(*parent, observer, steps, 0);
  REQUIRE(parent->pause().ok());
  const auto state = parent->save();
  REQUIRE(state.ok());
  const Fd image = memory_image(*parent);

  Observer copy_observer;
  MachineConfig as_copy;
  as_copy.generation_id = second;
  as_copy.new_generation = true;
  const auto copy = restore(host, copy_observer, *state, image, std::move(as_copy));
  if (!copy) FAIL(copy.error().describe());
  CHECK(id_of(**copy) == second);
  REQUIRE((*copy)->resume().ok());
  wait_until_above(**copy, copy_observer, generations, 0);
  REQUIRE((*copy)->pause().ok());
  const auto copy_state = (*copy)->save();
  REQUIRE(copy_state.ok());
  const Fd copy_image = memory_image(**copy);

  // Saved and resumed, it is still the same.
  Observer heir_observer;
  MachineConfig as_before;
  as_before.generation_id = first;
  const auto heir = restore(host, heir_observer, *copy_state, copy_image, std::move(as_before));
  if (!heir) FAIL(heir.error().describe());
  CHECK(id_of(**heir) == second);
  REQUIRE((*heir)->resume().ok());
  wait_until_above(**heir, heir_observer, steps, word_at(**copy, steps) + 1000);
  CHECK(word_at(**heir, generations) == 1);
}

TEST_CASE("a state of the device model before this one is refused") {
  Host host;
  Observer observer;
  const auto machine = boot(host, observer, "counter");
  auto state = machine->save();
  REQUIRE(state.ok());
  state->bytes[8] = 1;  // the version follows the magic number
  const auto refused = restore(host, observer, *state, memory_image(*machine));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::conflict);
  CHECK(refused.error().message.find("build the template again") != std::string::npos);
}
