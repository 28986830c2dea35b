// The host's end of a vsock connection: a cube::Stream that may outlive its device.
//
// A connection is shared by its stream and its device. The device's mutex guards it; a stream reaches the
// device through a weak pointer only and, once that is gone, leaves the connection alone: its operations end
// with `cancelled`.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <memory>
#include <mutex>

#include "core/stream.hpp"
#include "vmm/virtio/vsock_connection.hpp"

namespace cube::vmm::virtio::vsock {

struct Endpoint;

/// What an endpoint needs of its device.
class ConnectionHost {
 public:
  virtual ~ConnectionHost() = default;
  virtual std::mutex& connection_mutex() = 0;
  /// The host's end changed its connection: sends what is due. On the loop, with the mutex held.
  virtual void connection_changed(const std::shared_ptr<Endpoint>& endpoint) = 0;
};

struct Endpoint {
  Endpoint(const asio::any_io_executor& loop, std::weak_ptr<ConnectionHost> owner, std::uint32_t host_port,
           std::uint32_t guest_port);

  /// Lets the waiting operations look at the connection again. On the loop.
  void wake(Connection::Wakeups wakeups);

  const std::weak_ptr<ConnectionHost> host;

  // Guarded by the host's mutex.
  Connection connection;
  bool queued = false;     ///< among those that want to send
  bool lingering = false;  ///< the time it may stay in `closing` runs

  // Condition variables of the loop: they never expire by themselves (but for a connect's time limit).
  asio::steady_timer reader_wakeup;
  asio::steady_timer writer_wakeup;
};

/// The connection of an endpoint, locked; false if the device is gone.
class Access {
 public:
  explicit Access(std::shared_ptr<Endpoint> endpoint);
  explicit operator bool() const { return host_ != nullptr; }
  Connection* operator->() const { return &endpoint_->connection; }
  /// To be called after every change.
  void changed() { host_->connection_changed(endpoint_); }

 private:
  std::shared_ptr<Endpoint> endpoint_;
  std::shared_ptr<ConnectionHost> host_;
  std::unique_lock<std::mutex> lock_;
};

Error device_gone();

class VsockStream final : public Stream {
 public:
  explicit VsockStream(std::shared_ptr<Endpoint> endpoint) : endpoint_(std::move(endpoint)) {}
  ~VsockStream() override { close(); }

  /// Waits until the connection is established, closed, or `timeout` is over.
  asio::awaitable<Result<void>> wait_connected(std::chrono::milliseconds timeout);

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override;
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override;
  void shutdown_write() override;
  void close() override;

 private:
  std::shared_ptr<Endpoint> endpoint_;
};

}  // namespace cube::vmm::virtio::vsock
