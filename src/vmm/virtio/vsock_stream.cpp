// Operations of a stream: offer a buffer to the connection, then sleep until it has a result.
//
// The coroutines own a share of the endpoint, so the stream may be destroyed while they wait. Their guards
// take the buffer back in whatever way the coroutine ends, being destroyed included.
#include "vmm/virtio/vsock_stream.hpp"

#include <algorithm>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

namespace cube::vmm::virtio::vsock {
namespace {

constexpr auto never = asio::steady_timer::time_point::max();
constexpr std::chrono::milliseconds longest_timeout = std::chrono::hours(24);

struct ReadGuard {
  explicit ReadGuard(std::shared_ptr<Endpoint> owner) : endpoint(std::move(owner)) {}
  ReadGuard(const ReadGuard&) = delete;
  ReadGuard& operator=(const ReadGuard&) = delete;
  ~ReadGuard() {
    if (const Access connection(endpoint); connection) connection->end_read();
  }
  std::shared_ptr<Endpoint> endpoint;
};

struct WriteGuard {
  explicit WriteGuard(std::shared_ptr<Endpoint> owner) : endpoint(std::move(owner)) {}
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;
  ~WriteGuard() {
    if (const Access connection(endpoint); connection) connection->end_write();
  }
  std::shared_ptr<Endpoint> endpoint;
};

/// Sleeps until the timer is cancelled or expires; false if the coroutine itself is asked to stop.
asio::awaitable<bool> sleep(asio::steady_timer& timer) {
  asio::error_code ignored;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  const auto cancellation = co_await asio::this_coro::cancellation_state;
  co_return cancellation.cancelled() == asio::cancellation_type::none;
}

asio::awaitable<Result<void>> connected(std::shared_ptr<Endpoint> endpoint,
                                        std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + std::min(timeout, longest_timeout);
  endpoint->reader_wakeup.expires_at(deadline);
  for (;;) {
    {
      Access connection(endpoint);
      if (!connection) co_return device_gone();
      if (connection->state() == Connection::State::established) break;
      if (connection->state() != Connection::State::connecting) co_return connection->failure();
      if (std::chrono::steady_clock::now() >= deadline) {
        connection->abort(make_error(ErrorCode::deadline_exceeded, "the guest did not answer in time"));
        connection.changed();
        co_return connection->failure();
      }
    }
    const bool go_on = co_await sleep(endpoint->reader_wakeup);
    if (!go_on) co_return make_error(ErrorCode::cancelled, "the connect was cancelled");
  }
  endpoint->reader_wakeup.expires_at(never);
  co_return Result<void>();
}

asio::awaitable<Result<std::size_t>> read(std::shared_ptr<Endpoint> endpoint, asio::mutable_buffer buffer) {
  if (buffer.size() == 0) co_return std::size_t{0};
  const ReadGuard guard(endpoint);
  bool begun = false;
  for (;;) {
    {
      Access connection(endpoint);
      if (!connection) co_return device_gone();
      if (!std::exchange(begun, true)) {
        connection->begin_read({static_cast<std::byte*>(buffer.data()), buffer.size()});
        connection.changed();  // the guest may have to be told of the space
      }
      if (auto result = connection->read_result()) co_return std::move(*result);
    }
    const bool go_on = co_await sleep(endpoint->reader_wakeup);
    if (!go_on) co_return make_error(ErrorCode::cancelled, "the read was cancelled");
  }
}

asio::awaitable<Result<void>> write_all(std::shared_ptr<Endpoint> endpoint, asio::const_buffer buffer) {
  const WriteGuard guard(endpoint);
  bool begun = false;
  for (;;) {
    {
      Access connection(endpoint);
      if (!connection) co_return device_gone();
      if (!std::exchange(begun, true)) {
        connection->begin_write({static_cast<const std::byte*>(buffer.data()), buffer.size()});
        connection.changed();
      }
      if (auto result = connection->write_result()) co_return std::move(*result);
    }
    const bool go_on = co_await sleep(endpoint->writer_wakeup);
    if (!go_on) co_return make_error(ErrorCode::cancelled, "the write was cancelled");
  }
}

}  // namespace

Endpoint::Endpoint(const asio::any_io_executor& loop, std::weak_ptr<ConnectionHost> owner,
                   std::uint32_t host_port, std::uint32_t guest_port)
    : host(std::move(owner)),
      connection(host_port, guest_port),
      reader_wakeup(loop, never),
      writer_wakeup(loop, never) {}

void Endpoint::wake(Connection::Wakeups wakeups) {
  if (wakeups.reader) reader_wakeup.cancel();
  if (wakeups.writer) writer_wakeup.cancel();
}

Access::Access(std::shared_ptr<Endpoint> endpoint)
    : endpoint_(std::move(endpoint)), host_(endpoint_->host.lock()) {
  if (host_) lock_ = std::unique_lock(host_->connection_mutex());
}

Error device_gone() { return make_error(ErrorCode::cancelled, "the machine is gone"); }

asio::awaitable<Result<void>> VsockStream::wait_connected(std::chrono::milliseconds timeout) {
  return connected(endpoint_, timeout);
}

asio::awaitable<Result<std::size_t>> VsockStream::read_some(asio::mutable_buffer buffer) {
  return read(endpoint_, buffer);
}

asio::awaitable<Result<void>> VsockStream::write(asio::const_buffer buffer) {
  return write_all(endpoint_, buffer);
}

void VsockStream::shutdown_write() {
  Access connection(endpoint_);
  if (!connection) return;
  connection->shutdown_write();
  connection.changed();
}

void VsockStream::close() {
  Access connection(endpoint_);
  if (!connection) return;
  connection->close();
  connection.changed();
}

}  // namespace cube::vmm::virtio::vsock
