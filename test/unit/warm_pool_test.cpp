// The pool of warm sandboxes: what is wanted, what is handed out, what is given back.
#include "node/warm_pool.hpp"

#include <asio/io_context.hpp>

#include "fake_machine.hpp"

using namespace cube;
using namespace cube::node;
using cube::test::FakeMachine;

namespace {

class NoSnapshot final : public snapshot::Snapshot {
 public:
  const snapshot::Shape& shape() const override { return shape_; }
  bool has_memory() const override { return true; }
  std::size_t depth() const override { return 0; }
  Result<void> verify() const override { return {}; }
  Result<snapshot::Clone> clone(snapshot::ShellPool&, vmm::Executors, vmm::MachineConfig,
                                snapshot::Readiness) const override {
    return none();
  }
  void expect_clones(std::size_t) const override {}
  Result<std::shared_ptr<disk::CowDisk>> open_disk() const override { return none(); }
  Result<void> publish(const std::string&) const override { return none(); }
  Result<void> publish_over(const std::string&) const override { return none(); }

 private:
  static Error none() { return make_error(ErrorCode::unimplemented, "there is nothing in it"); }
  snapshot::Shape shape_{1, 64 << 20, 4096};
};

CloneSource make_source(const std::string& id) { return {id, id, "", std::make_shared<NoSnapshot>()}; }

/// What the node makes when the pool wants something.
struct Warmer {
  asio::io_context loop;
  WarmPool pool;
  explicit Warmer(std::size_t limit) : pool(limit) {}

  SandboxPtr make() {
    auto sandbox = std::make_shared<Sandbox>(loop.get_executor());
    sandbox->running.machine = std::make_shared<FakeMachine>();
    return sandbox;
  }
  /// A request: one that finds none comes up some other way, and more are wanted.
  SandboxPtr ask(const CloneSource& source) {
    auto found = pool.take(source);
    if (!found) pool.want_more(source);
    return found;
  }

  /// How many it made until nothing more was wanted.
  std::size_t fill(std::uint64_t bytes = 100) {
    std::size_t made = 0;
    for (; const auto source = pool.next_wanted(); ++made) pool.put(*source, make(), bytes);
    return made;
  }
};

}  // namespace

TEST_CASE("the warm pool wants what was asked for in vain, one more each time, up to its limit") {
  Warmer warmer(3);
  const CloneSource base = make_source("base");
  CHECK(warmer.fill() == 0);
  for (std::size_t asked = 1; asked <= 5; ++asked) {
    CHECK(warmer.ask(base) == nullptr);
    CHECK(warmer.pool.next_wanted().has_value());
  }
  CHECK(warmer.pool.wanted() == 3);
  CHECK(warmer.fill() == 3);
  CHECK(warmer.pool.size() == 3);
  CHECK(warmer.pool.memory_bytes() == 300);
  for (int i = 0; i < 3; ++i) CHECK(warmer.ask(base) != nullptr);
  CHECK(warmer.ask(base) == nullptr);
  CHECK(warmer.pool.counts().hits == 3);
  CHECK(warmer.pool.counts().misses == 6);
  CHECK(warmer.pool.memory_bytes() == 0);
  CHECK(warmer.fill() == 3);  // what was taken is wanted again
}

TEST_CASE("a warm pool without room keeps nothing and wants nothing") {
  Warmer warmer(0);
  CHECK(warmer.ask(make_source("base")) == nullptr);
  CHECK_FALSE(warmer.pool.next_wanted());
}

TEST_CASE("the neediest source is served first, and each request gets its own snapshot's clones") {
  Warmer warmer(4);
  const CloneSource base = make_source("base"), rebuilt = make_source("base"), other = make_source("other");
  for (int i = 0; i < 3; ++i) CHECK(warmer.ask(base) == nullptr);
  warmer.pool.put(*warmer.pool.next_wanted(), warmer.make(), 1);
  CHECK(warmer.ask(other) == nullptr);
  CHECK(warmer.pool.next_wanted()->snapshot == other.snapshot);
  warmer.fill();
  CHECK(warmer.pool.size() == 4);
  // The same template, but built again since: what waits is of the old one.
  CHECK(warmer.ask(rebuilt) == nullptr);
  CHECK(warmer.pool.size() == 4);
}

TEST_CASE("a warm sandbox whose guest died is not handed out") {
  Warmer warmer(2);
  const CloneSource base = make_source("base");
  CHECK(warmer.ask(base) == nullptr);
  CHECK(warmer.ask(base) == nullptr);
  const SandboxPtr alive = warmer.make(), dead = warmer.make();
  warmer.pool.put(base, alive, 1);
  warmer.pool.put(base, dead, 1);
  dead->running.machine->stop();
  CHECK(warmer.ask(base) == alive);
  CHECK(warmer.ask(base) == nullptr);
  CHECK(warmer.pool.counts().hits == 1);
}

TEST_CASE("idle minutes lower what is wanted, one at a time, and give back what is too much") {
  Warmer warmer(4);
  const CloneSource base = make_source("base");
  for (int i = 0; i < 2; ++i) CHECK(warmer.ask(base) == nullptr);
  CHECK(warmer.fill() == 2);
  CHECK(warmer.pool.age().empty());  // it was asked for since the last minute
  CHECK(warmer.pool.age().size() == 1);
  CHECK(warmer.fill() == 0);
  const SandboxPtr taken = warmer.ask(base);
  CHECK(taken != nullptr);
  CHECK(warmer.pool.age().empty());
  CHECK(warmer.fill() == 1);
  CHECK(warmer.pool.age().empty());  // it was being filled
  CHECK(warmer.pool.age().size() == 1);
  CHECK(warmer.pool.size() == 0);
  warmer.pool.put(base, warmer.make(), 1);  // made for a demand that is forgotten
  CHECK(warmer.pool.size() == 0);
}

TEST_CASE("outdated and drained sandboxes are handed back, each once") {
  Warmer warmer(4);
  const CloneSource base = make_source("base"), gone = make_source("gone");
  for (const CloneSource& source : {base, gone})
    for (int i = 0; i < 2; ++i) CHECK(warmer.ask(source) == nullptr);
  CHECK(warmer.fill() == 4);
  const auto current = [&](const CloneSource& source) { return source.snapshot == base.snapshot; };
  CHECK(warmer.pool.take_outdated(current).size() == 2);
  CHECK(warmer.pool.take_outdated(current).empty());
  CHECK(warmer.pool.drain().size() == 2);
  CHECK(warmer.pool.size() == 0);
  CHECK_FALSE(warmer.pool.next_wanted());  // demand starts anew
}

TEST_CASE("a request that failed without the pool makes nothing wanted") {
  Warmer warmer(3);
  CHECK(warmer.pool.take(make_source("base")) == nullptr);
  CHECK_FALSE(warmer.pool.next_wanted());
}
