#include "vsock.hpp"

#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include <asio/basic_socket_acceptor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <string>

namespace cube::agent {
namespace {

using Protocol = asio::generic::stream_protocol;
using Socket = Protocol::socket;

Error socket_error(const asio::error_code& error, const char* operation) {
  if (error == asio::error::operation_aborted || error == asio::error::bad_descriptor)
    return make_error(ErrorCode::cancelled, "the connection was closed");
  Error failed = os_error(error.value(), operation);
  failed.code = ErrorCode::unavailable;
  return failed;
}

// The coroutines share the socket, so that destroying the stream under an outstanding operation only ends it.
asio::awaitable<Result<std::size_t>> read_from(std::shared_ptr<Socket> socket, asio::mutable_buffer buffer) {
  asio::error_code error;
  const std::size_t count =
      co_await socket->async_read_some(buffer, asio::redirect_error(asio::use_awaitable, error));
  if (error == asio::error::eof) co_return std::size_t{0};
  if (error) co_return socket_error(error, "receive");
  co_return count;
}

asio::awaitable<Result<void>> write_to(std::shared_ptr<Socket> socket, asio::const_buffer buffer) {
  asio::error_code error;
  co_await asio::async_write(*socket, buffer, asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return socket_error(error, "send");
  co_return Result<void>{};
}

class VsockStream final : public Stream {
 public:
  explicit VsockStream(Socket socket) : socket_(std::make_shared<Socket>(std::move(socket))) {}
  ~VsockStream() override { close(); }

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    return read_from(socket_, buffer);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    return write_to(socket_, buffer);
  }
  void shutdown_write() override {
    asio::error_code ignored;
    socket_->shutdown(Socket::shutdown_send, ignored);
  }
  void close() override {
    asio::error_code ignored;
    socket_->close(ignored);
  }

 private:
  std::shared_ptr<Socket> socket_;
};

}  // namespace

struct VsockListener::Acceptor {
  Acceptor(asio::any_io_executor loop, OnConnection callback)
      : socket(loop), pause(loop), on_connection(std::move(callback)) {}

  asio::basic_socket_acceptor<Protocol> socket;
  asio::steady_timer pause;
  OnConnection on_connection;

  static asio::awaitable<void> run(std::shared_ptr<Acceptor> self) {
    for (;;) {
      asio::error_code error;
      Socket accepted = co_await self->socket.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (!error) {
        self->on_connection(std::make_unique<VsockStream>(std::move(accepted)));
        continue;
      }
      if (!self->socket.is_open()) co_return;
      // Out of descriptors or memory: what holds them needs time to let go.
      self->pause.expires_after(std::chrono::milliseconds(100));
      co_await self->pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
  }
};

Result<std::unique_ptr<VsockListener>> VsockListener::listen(asio::any_io_executor loop, std::uint32_t port,
                                                             OnConnection on_connection) {
  const std::string object = "vsock port " + std::to_string(port);
  Fd descriptor(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!descriptor) return os_error(errno, "cannot create a socket", object);
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  if (::bind(descriptor.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return os_error(errno, "cannot bind", object);
  if (::listen(descriptor.get(), SOMAXCONN) != 0) return os_error(errno, "cannot listen", object);

  auto acceptor = std::make_shared<Acceptor>(loop, std::move(on_connection));
  asio::error_code error;
  acceptor->socket.assign(Protocol(AF_VSOCK, SOCK_STREAM), descriptor.get(), error);
  if (error) return os_error(error.value(), "cannot watch", object);
  descriptor.release();
  asio::co_spawn(loop, Acceptor::run(acceptor), asio::detached);
  return std::unique_ptr<VsockListener>(new VsockListener(std::move(acceptor)));
}

VsockListener::~VsockListener() {
  asio::error_code ignored;
  acceptor_->socket.close(ignored);
  acceptor_->pause.cancel();
}

}  // namespace cube::agent
