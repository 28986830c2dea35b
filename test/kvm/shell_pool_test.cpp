// The pool of VM shells: what demand makes it keep, and what it gives back.
#include "snapshot/shell_pool.hpp"

#include <atomic>

#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;
using snapshot::ShellPool;

namespace {

constexpr std::uint64_t small = 64 << 20, large = 128 << 20;

std::unique_ptr<MachineShell> take(ShellPool& pool, std::uint32_t vcpus = 1, std::uint64_t bytes = small) {
  auto shell = pool.take(vcpus, bytes);
  if (!shell) FAIL(shell.error().describe());
  REQUIRE((*shell)->vcpu_count() == vcpus);
  REQUIRE((*shell)->memory_bytes() == bytes);
  return std::move(*shell);
}

/// A pool whose orders are carried out when the test says so: everything in between is seen.
struct Orders {
  asio::io_context workers{1};
  ShellPool pool;
  Orders(Host& host, std::size_t limit) : pool(host.shells, workers.get_executor(), limit) {}

  /// How many orders there were.
  std::size_t carry_out() {
    workers.restart();
    return workers.run();
  }
};

}  // namespace

TEST_CASE("a shell that was asked for in vain is there the next time, and is replaced") {
  Host host;
  Orders orders(host, 4);
  CHECK(orders.carry_out() == 0);  // nothing is made before anybody asks
  take(orders.pool);
  CHECK(orders.carry_out() == 1);
  CHECK(orders.pool.counts().ready == 1);
  for (std::uint64_t hits = 1; hits <= 3; ++hits) {
    take(orders.pool);
    CHECK(orders.pool.counts().hits == hits);
    CHECK(orders.pool.counts().misses == 1);
    CHECK(orders.pool.counts().ready == 0);
    CHECK(orders.carry_out() == 1);
    CHECK(orders.pool.counts().ready == 1);
  }
}

TEST_CASE("requests at the same time make the pool keep as many, up to its limit for all shapes") {
  Host host;
  Orders orders(host, 3);
  for (int i = 0; i < 5; ++i) take(orders.pool);
  CHECK(orders.carry_out() == 3);
  CHECK(orders.pool.counts().ready == 3);
  // No room for another shape, which is made for whoever asks all the same.
  take(orders.pool, 2, large);
  CHECK(orders.carry_out() == 0);
  take(orders.pool, 2, large);
  CHECK(orders.pool.counts().ready == 3);
  CHECK(orders.pool.counts().hits == 0);

  Orders none(host, 0);
  take(none.pool);
  CHECK(none.carry_out() == 0);
}

TEST_CASE("a shell is only handed out for its own shape") {
  Host host;
  Orders orders(host, 8);
  const std::vector<std::pair<std::uint32_t, std::uint64_t>> shapes = {{1, small}, {2, small}, {1, large}};
  for (const auto& [vcpus, bytes] : shapes) take(orders.pool, vcpus, bytes);
  CHECK(orders.carry_out() == 3);
  for (const auto& [vcpus, bytes] : shapes) take(orders.pool, vcpus, bytes);  // checks what it gets
  CHECK(orders.pool.counts().hits == 3);
  take(orders.pool, 2, large);
  CHECK(orders.pool.counts().misses == 4);
}

TEST_CASE("idle minutes give shells back one at a time, and demand keeps them") {
  Host host;
  Orders orders(host, 4);
  for (int i = 0; i < 3; ++i) take(orders.pool);
  orders.carry_out();
  orders.pool.age();  // they were asked for since the last minute
  CHECK(orders.pool.counts().ready == 3);
  orders.pool.age();
  CHECK(orders.pool.counts().ready == 2);
  take(orders.pool);
  orders.carry_out();
  orders.pool.age();
  CHECK(orders.pool.counts().ready == 2);
  for (int i = 0; i < 3; ++i) orders.pool.age();
  CHECK(orders.pool.counts().ready == 0);
  CHECK(orders.carry_out() == 0);
}

TEST_CASE("a drained pool is empty, also of what was being made, and starts anew") {
  Host host;
  Orders orders(host, 4);
  for (int i = 0; i < 2; ++i) take(orders.pool);
  orders.pool.drain();
  CHECK(orders.carry_out() == 2);  // ordered before, wanted no more
  CHECK(orders.pool.counts().ready == 0);
  take(orders.pool);
  orders.carry_out();
  CHECK(orders.pool.counts().ready == 1);
  orders.pool.drain();
  CHECK(orders.pool.counts().ready == 0);
  CHECK(orders.carry_out() == 0);
}

TEST_CASE("a pool that cannot make shells says so to whoever asks, and orders none") {
  asio::io_context workers;
  const Fd not_kvm(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ShellPool pool(shells_in_this_process(not_kvm.get()), workers.get_executor(), 4);
  CHECK_FALSE(pool.take(1, small).ok());
  workers.run();  // the order fails, too
  CHECK(pool.counts().ready == 0);
  CHECK_FALSE(pool.take(1, small).ok());
  workers.restart();
  CHECK(workers.run() == 1);
}

TEST_CASE("threads that take shells at once each get one, and nothing is left when the pool is gone") {
  Host host;
  const auto use_pool = [&] {
    asio::thread_pool workers{4};
    auto pool = std::make_unique<ShellPool>(host.shells, workers.get_executor(), 6);
    std::vector<std::thread> threads;
    std::atomic<int> wrong = 0;
    for (std::uint32_t vcpus = 1; vcpus <= 4; ++vcpus)
      threads.emplace_back([&, vcpus] {
        for (int i = 0; i < 8; ++i) {
          const auto shell = pool->take(vcpus, small);
          if (!shell || (*shell)->vcpu_count() != vcpus) ++wrong;
        }
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(pool->counts().hits + pool->counts().misses == 32);
    CHECK(pool->counts().ready <= 6);
    pool.reset();  // orders may still be on their way
    workers.join();
  };
  use_pool();  // thread stacks and arenas that are kept for reuse
  const std::size_t descriptors = open_descriptors();
  for (int i = 0; i < 5; ++i) use_pool();
  CHECK(open_descriptors() == descriptors);
}
