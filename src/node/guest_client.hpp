// What the daemon asks of cube-agent in one machine (the contract is cube/guest.hpp). Every call has a
// deadline: a guest may never answer. On the event loop.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cube/core.hpp>
#include <cube/guest.hpp>
#include <cube/vmm.hpp>
#include <memory>
#include <string>
#include <vector>

#include "node/event_log.hpp"
#include "node/metrics.hpp"

namespace cube::node {

class GuestClient {
 public:
  explicit GuestClient(std::shared_ptr<vmm::Machine> machine) : machine_(std::move(machine)) {}

  /// Returns when the agent serves; a booting guest is asked again and again until then.
  asio::awaitable<Result<void>> wait_ready(std::chrono::milliseconds timeout);

  asio::awaitable<Result<void>> init(guest::InitRequest request, std::chrono::milliseconds timeout);

  struct Outcome {
    std::int64_t exit_code = 0;
    std::string output;
  };
  asio::awaitable<Result<Outcome>> run(std::string command, std::string user,
                                       std::chrono::milliseconds timeout);

  asio::awaitable<Result<void>> sync(std::chrono::milliseconds timeout);

  /// What its machine uses now.
  asio::awaitable<Result<Metric>> metrics(std::chrono::milliseconds timeout);

  /// What its agent noted from then on.
  asio::awaitable<Result<std::vector<LogEntry>>> journal(std::chrono::system_clock::time_point since,
                                                         std::chrono::milliseconds timeout);

  /// Returns when a booted guest has come to rest (cube/guest.hpp).
  asio::awaitable<Result<void>> settle(std::chrono::milliseconds timeout);

  /// A stream to a TCP port on the guest's loopback, envd's included. `unavailable`: nothing listens.
  asio::awaitable<Result<std::unique_ptr<Stream>>> open_port(std::uint16_t port,
                                                             std::chrono::milliseconds timeout);

 private:
  asio::awaitable<Result<std::string>> call(std::string method, std::string path, std::string body,
                                            std::chrono::milliseconds timeout,
                                            std::size_t answer_limit = 256 << 10);

  std::shared_ptr<vmm::Machine> machine_;
};

}  // namespace cube::node
