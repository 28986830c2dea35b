#include "core/socket_stream.hpp"

#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

namespace cube {
namespace {

// What is written without waiting before others have their turn.
constexpr std::size_t turn_bytes = 256 << 10;

Result<std::size_t> received(const asio::error_code& error, std::size_t count) {
  if (error == asio::error::eof) return std::size_t{0};
  if (error) return socket_error(error, "receive");
  return count;
}

// The operations share the socket: a stream destroyed under an outstanding one ends it, nothing dangles.
asio::awaitable<Result<std::size_t>> read_some(std::shared_ptr<StreamSocket> socket,
                                               asio::mutable_buffer buffer) {
  return asio::async_initiate<const asio::use_awaitable_t<>&, void(Result<std::size_t>)>(
      [buffer](auto waiter, const std::shared_ptr<StreamSocket>& reading) {
        reading->async_read_some(buffer, [reading, waiter = std::move(waiter)](const asio::error_code& error,
                                                                               std::size_t count) mutable {
          waiter(received(error, count));
        });
      },
      asio::use_awaitable, std::move(socket));
}

// Most of the time the kernel takes all of it at once: then nothing is waited for.
asio::awaitable<Result<void>> write_all(std::shared_ptr<StreamSocket> socket, asio::const_buffer buffer) {
  asio::error_code error;
  buffer += socket->write_some(buffer, error);
  if (error == asio::error::would_block) error.clear();
  if (!error && buffer.size() > 0)
    co_await asio::async_write(*socket, buffer, asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return socket_error(error, "send");
  co_return Result<void>{};
}

asio::awaitable<Result<void>> write_in_turn(std::shared_ptr<StreamSocket> socket, asio::const_buffer buffer) {
  co_await asio::post(socket->get_executor(), asio::use_awaitable);
  co_return co_await write_all(std::move(socket), buffer);
}

class SocketStream final : public Stream {
 public:
  explicit SocketStream(StreamSocket socket) : socket_(std::make_shared<StreamSocket>(std::move(socket))) {
    asio::error_code ignored;
    socket_->non_blocking(true, ignored);
  }
  ~SocketStream() override { close(); }

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    return cube::read_some(socket_, buffer);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    written_ += buffer.size();
    if (written_ < turn_bytes) return write_all(socket_, buffer);
    written_ = 0;
    return write_in_turn(socket_, buffer);
  }
  std::size_t write_now(asio::const_buffer buffer) override {
    if (written_ + buffer.size() >= turn_bytes) return 0;
    asio::error_code error;
    const std::size_t count = socket_->write_some(buffer, error);
    written_ += count;
    return count;
  }
  void shutdown_write() override {
    asio::error_code ignored;
    socket_->shutdown(StreamSocket::shutdown_send, ignored);
  }
  void close() override {
    asio::error_code ignored;
    socket_->close(ignored);
  }
  std::shared_ptr<StreamSocket> socket() override { return socket_; }

 private:
  std::shared_ptr<StreamSocket> socket_;
  std::size_t written_ = 0;  ///< since others last had their turn
};

}  // namespace

Error socket_error(const asio::error_code& error, const char* operation) {
  if (error == asio::error::operation_aborted || error == asio::error::bad_descriptor)
    return make_error(ErrorCode::cancelled, "the connection was closed");
  Error result = os_error(error.value(), operation);
  if (error == asio::error::connection_reset || error == asio::error::broken_pipe ||
      error == asio::error::connection_refused || error == asio::error::host_unreachable ||
      error == asio::error::network_unreachable)
    result.code = ErrorCode::unavailable;
  return result;
}

std::unique_ptr<Stream> make_socket_stream(StreamSocket socket) {
  return std::make_unique<SocketStream>(std::move(socket));
}

}  // namespace cube
