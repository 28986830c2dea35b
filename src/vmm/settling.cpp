#include "vmm/settling.hpp"

#include <thread>

namespace cube::vmm {
namespace {

constexpr std::chrono::microseconds between_looks{5'000};
constexpr auto most_of_idle_vcpus = between_looks / 5;  ///< for timers and interrupts
constexpr int enough_looks = 4;  ///< in a row: on a busy host a vCPU may miss one or two

}  // namespace

bool wait_until_idle(const std::function<std::chrono::nanoseconds()>& cpu_time,
                     const std::function<bool()>& stopped, std::chrono::steady_clock::time_point latest) {
  auto before = cpu_time();
  for (int idle = 0; idle < enough_looks;) {
    if (stopped() || std::chrono::steady_clock::now() >= latest) return false;
    std::this_thread::sleep_for(between_looks);
    const auto now = cpu_time();
    idle = now - before < most_of_idle_vcpus ? idle + 1 : 0;
    before = now;
  }
  return true;
}

}  // namespace cube::vmm
