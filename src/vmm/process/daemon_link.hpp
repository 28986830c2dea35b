// The daemon's end of a link: a machine's streams, console and end.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <atomic>
#include <cube/vmm.hpp>
#include <memory>
#include <set>

namespace cube::vmm {

/// Its streams share it, so that it may outlive its machine. On the loop, unless said otherwise.
class DaemonLink : public std::enable_shared_from_this<DaemonLink> {
 public:
  static Result<std::shared_ptr<DaemonLink>> open(asio::any_io_executor loop, Fd socket,
                                                  std::function<void(std::string_view)> on_console,
                                                  std::function<void(StopReason)> on_stop);

  asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t guest_port,
                                                           std::chrono::milliseconds timeout);

  /// Says that the guest is about to be used; what cannot be said at once is left.
  void expect_use();

  /// The first reason counts. From any thread.
  void stop(StopReason reason);
  bool stopped() const { return stopped_; }  ///< from any thread

  /// Whether the end of a connection that was just read is not one the guest meant.
  bool was_reset(std::uint64_t connection);

  DaemonLink(asio::any_io_executor loop, Fd socket, std::function<void(std::string_view)> on_console,
             std::function<void(StopReason)> on_stop);

 private:
  static asio::awaitable<void> listen(std::shared_ptr<DaemonLink> self);

  /// Takes one event; false if there is none.
  bool take_event();

  asio::posix::stream_descriptor socket_;
  const std::function<void(std::string_view)> on_console_;
  const std::function<void(StopReason)> on_stop_;
  std::atomic<bool> stopped_ = false;
  bool ended_ = false;  ///< nobody is at the other end
  std::uint64_t last_connection_ = 0;
  std::set<std::uint64_t> open_;   ///< connections that have not ended
  std::set<std::uint64_t> reset_;  ///< some of them
  friend class LinkStream;
};

}  // namespace cube::vmm
