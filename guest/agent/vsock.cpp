#include "vsock.hpp"

#include <linux/vm_sockets.h>
#include <sys/socket.h>

#include <asio/basic_socket_acceptor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/http.hpp>
#include <string>

namespace cube::agent {
namespace {

using Protocol = asio::generic::stream_protocol;
using Socket = Protocol::socket;

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
        self->on_connection(make_socket_stream(std::move(accepted)));
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
