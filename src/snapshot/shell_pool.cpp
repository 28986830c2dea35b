#include "snapshot/shell_pool.hpp"

#include <asio/post.hpp>
#include <map>
#include <mutex>
#include <vector>

namespace cube::snapshot {

struct ShellPool::State : std::enable_shared_from_this<ShellPool::State> {
  using Shape = std::pair<std::uint32_t, std::uint64_t>;  // vCPUs, bytes of memory
  struct Shelf {
    std::vector<std::unique_ptr<vmm::MachineShell>> ready;
    std::size_t wanted = 0;
    std::size_t in_the_making = 0;
    bool used = false;  // since the last call of age()
  };

  State(std::shared_ptr<vmm::ShellMaker> shells, asio::any_io_executor executor, std::size_t most)
      : maker(std::move(shells)), workers(std::move(executor)), limit(most) {}

  /// With the mutex held.
  std::size_t kept() const {
    std::size_t sum = 0;
    for (const auto& [shape, shelf] : shelves) sum += shelf.ready.size() + shelf.in_the_making;
    return sum;
  }

  /// With the mutex held: makes what is missing of a shape, on the workers.
  void order(const Shape& shape) {
    Shelf& shelf = shelves[shape];
    while (!closed && shelf.ready.size() + shelf.in_the_making < shelf.wanted && kept() < limit) {
      ++shelf.in_the_making;
      asio::post(workers, [self = shared_from_this(), shape] { self->make(shape); });
    }
  }

  void make(const Shape& shape) {
    auto shell = maker->make(shape.first, shape.second);
    const std::scoped_lock lock(mutex);
    Shelf& shelf = shelves[shape];
    --shelf.in_the_making;
    if (shell && !closed && shelf.ready.size() < shelf.wanted) shelf.ready.push_back(std::move(*shell));
    if (!shell) {
      shelf.wanted = shelf.ready.size();  // asked for again by the next request
      log(LogLevel::warning, "snapshot", "cannot make a VM shell ahead of time",
          {{"error", shell.error().describe()}});
    }
  }

  const std::shared_ptr<vmm::ShellMaker> maker;
  const asio::any_io_executor workers;
  const std::size_t limit;
  std::mutex mutex;
  std::map<Shape, Shelf> shelves;
  bool closed = false;
  std::uint64_t hits = 0, misses = 0;
};

ShellPool::ShellPool(std::shared_ptr<vmm::ShellMaker> maker, asio::any_io_executor workers, std::size_t limit)
    : state_(std::make_shared<State>(std::move(maker), std::move(workers), limit)) {}

ShellPool::~ShellPool() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->closed = true;
  }
  drain();
}

Result<std::unique_ptr<vmm::MachineShell>> ShellPool::take(std::uint32_t vcpu_count,
                                                           std::uint64_t memory_bytes) {
  const State::Shape shape(vcpu_count, memory_bytes);
  {
    const std::scoped_lock lock(state_->mutex);
    State::Shelf& shelf = state_->shelves[shape];
    shelf.used = true;
    if (!shelf.ready.empty()) {
      ++state_->hits;
      auto shell = std::move(shelf.ready.back());
      shelf.ready.pop_back();
      state_->order(shape);
      return shell;
    }
    ++state_->misses;
    if (shelf.wanted < state_->limit) ++shelf.wanted;
    state_->order(shape);
  }
  return state_->maker->order(vcpu_count, memory_bytes);
}

void ShellPool::age() {
  std::vector<std::unique_ptr<vmm::MachineShell>> surplus;  // destroyed without the mutex: it blocks
  const std::scoped_lock lock(state_->mutex);
  for (auto& [shape, shelf] : state_->shelves) {
    if (!std::exchange(shelf.used, false) && shelf.wanted > 0) --shelf.wanted;
    while (shelf.ready.size() > shelf.wanted) {
      surplus.push_back(std::move(shelf.ready.back()));
      shelf.ready.pop_back();
    }
  }
}

void ShellPool::drain() {
  std::vector<std::unique_ptr<vmm::MachineShell>> all;
  const std::scoped_lock lock(state_->mutex);
  for (auto& [shape, shelf] : state_->shelves) {
    shelf.wanted = 0;
    std::ranges::move(std::exchange(shelf.ready, {}), std::back_inserter(all));
  }
}

ShellPool::Counts ShellPool::counts() const {
  const std::scoped_lock lock(state_->mutex);
  Counts counts{state_->hits, state_->misses};
  for (const auto& [shape, shelf] : state_->shelves) {
    counts.ready += shelf.ready.size();
    counts.wanted += shelf.wanted;
  }
  return counts;
}

}  // namespace cube::snapshot
