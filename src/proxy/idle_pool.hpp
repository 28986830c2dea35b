// IdlePool: connections into sandboxes that wait for the next request to the same port.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cube/http.hpp>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace cube::proxy {

class IdlePool : public std::enable_shared_from_this<IdlePool> {
 public:
  static constexpr std::size_t most_per_port = 64;
  static constexpr std::size_t most = 1024;
  static constexpr std::chrono::seconds longest_idle{10};

  explicit IdlePool(asio::any_io_executor loop) : expiry_(std::move(loop)) {}

  /// The one used last, which is the least likely to be closed by the guest just now. Those into other
  /// incarnations of the sandbox are dropped.
  std::optional<http::ClientConnection> take(const std::string& sandbox_id, std::uint64_t incarnation,
                                             std::uint16_t port);

  /// Does nothing but close it if it is not reusable.
  void put(const std::string& sandbox_id, std::uint64_t incarnation, std::uint16_t port,
           http::ClientConnection connection);

  /// The sandbox is gone.
  void drop(const std::string& sandbox_id);

  std::size_t size() const { return idle_.size(); }

 private:
  struct Idle {
    const std::string* sandbox_id;  ///< the key in `by_sandbox_`
    std::uint64_t incarnation;
    std::uint16_t port;
    http::ClientConnection connection;
    std::chrono::steady_clock::time_point since;
  };
  using Position = std::list<Idle>::iterator;

  void make_room(const std::string& sandbox_id, std::uint16_t port);
  void remove(Position idle);
  template <class Condition>
  void remove_if(std::vector<Position>& of_sandbox, Condition condition);
  void expire_later();

  std::list<Idle> idle_;                                               ///< the longest idle first
  std::unordered_map<std::string, std::vector<Position>> by_sandbox_;  ///< the same order; may be empty
  asio::steady_timer expiry_;
  bool expiring_ = false;
};

}  // namespace cube::proxy
