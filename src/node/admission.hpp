// Admission: memory is promised before a sandbox is created and given back when its machine is gone.
// Reserving is the event loop's; giving back may happen on any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <cube/core.hpp>
#include <memory>

namespace cube::node {

class Admission {
 public:
  struct Limits {
    std::uint64_t memory_mib = 0;  ///< sum of nominal sizes
    std::uint32_t sandboxes = 0;
  };
  explicit Admission(Limits limits) : limits_(limits) {}

  /// Held as long as the returned object lives. `resource_exhausted` says what is used up.
  Result<std::shared_ptr<void>> reserve(std::uint64_t memory_mib);

 private:
  struct Usage {
    std::atomic<std::uint64_t> memory_mib = 0;
    std::atomic<std::uint32_t> sandboxes = 0;
  };
  Limits limits_;
  std::shared_ptr<Usage> usage_ = std::make_shared<Usage>();
};

}  // namespace cube::node
