// A pool of VM shells: virtual machines made ahead of time that only need a guest put into them.
//
// Kept by shape, as many as recent demand asked for: a request that finds none raises the number wanted of
// its shape by one, an idle minute lowers it by one. Never more than the limit in all. A request that finds
// none makes its own: the pool saves time, never refuses.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cstdint>
#include <cube/vmm.hpp>
#include <memory>

namespace cube::snapshot {

class ShellPool {
 public:
  /// `limit`: shells kept at most, 0 for none.
  ShellPool(std::shared_ptr<vmm::ShellMaker> maker, asio::any_io_executor workers, std::size_t limit);
  ~ShellPool();
  ShellPool(const ShellPool&) = delete;
  ShellPool& operator=(const ShellPool&) = delete;

  /// Blocks no longer than making one takes; orders a replacement. If none was ready, that one cannot be made
  /// may show only when it is used. Safe from any thread.
  Result<std::unique_ptr<vmm::MachineShell>> take(std::uint32_t vcpu_count, std::uint64_t memory_bytes);

  /// Once a minute: forgets demand that is no longer there. Blocks.
  void age();

  /// Gives every shell back; the next are made on demand. Blocks.
  void drain();

  struct Counts {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
    std::size_t ready = 0;
    std::size_t wanted = 0;
  };
  Counts counts() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cube::snapshot
