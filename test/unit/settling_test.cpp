// Waiting for vCPUs to be idle.
#include "vmm/settling.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

using cube::vmm::wait_until_idle;
using namespace std::chrono_literals;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

TEST_CASE("vCPUs that have become idle are not waited for any longer") {
  int looks = 0;
  const auto busy_at_first = [&]() -> nanoseconds { return std::min(++looks, 5) * 4ms; };
  CHECK(wait_until_idle(
      busy_at_first, [] { return false; }, steady_clock::now() + 24h));
  CHECK(looks == 9);
}

TEST_CASE("one moment without a processor is not idleness") {
  int looks = 0;
  const auto starved_at_times = [&]() -> nanoseconds {
    ++looks;
    return (looks < 20 ? looks / 2 : 10) * 4ms;
  };
  CHECK(wait_until_idle(
      starved_at_times, [] { return false; }, steady_clock::now() + 24h));
  CHECK(looks > 20);
}

TEST_CASE("busy vCPUs are waited for until the time that was given, and not at all after it") {
  int looks = 0;
  const auto busy = [&]() -> nanoseconds { return ++looks * 4ms; };
  const auto latest = steady_clock::now() + 30ms;
  CHECK_FALSE(wait_until_idle(
      busy, [] { return false; }, latest));
  CHECK(steady_clock::now() >= latest);
  looks = 0;
  CHECK_FALSE(wait_until_idle(
      busy, [] { return false; }, latest));
  CHECK(looks == 1);
}

TEST_CASE("a machine that stops is not waited for") {
  int looks = 0;
  const auto busy = [&]() -> nanoseconds { return ++looks * 4ms; };
  CHECK_FALSE(wait_until_idle(
      busy, [&] { return looks == 3; }, steady_clock::now() + 24h));
}
