// TCP connections as streams.
#include <netinet/tcp.h>

#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/http.hpp>

#include "http/watchdog.hpp"

namespace cube::http {

std::unique_ptr<Stream> make_tcp_stream(asio::ip::tcp::socket socket) {
  asio::error_code ignored;  // a peer that is gone already shows on the first read
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  return make_socket_stream(std::move(socket));
}

asio::awaitable<Result<std::unique_ptr<Stream>>> connect_tcp(std::string address, std::uint16_t port,
                                                             std::chrono::milliseconds timeout) {
  asio::error_code error;
  const auto ip = asio::ip::make_address(address == "localhost" ? "127.0.0.1" : address, error);
  if (error) co_return make_error(ErrorCode::invalid_argument, "not an IP address", address);
  const std::string object = address + ":" + std::to_string(port);

  const auto executor = co_await asio::this_coro::executor;
  asio::ip::tcp::socket socket(executor);
  const Watchdog watchdog(executor, timeout, [&] {
    asio::error_code ignored;
    socket.close(ignored);
  });
  co_await socket.async_connect(asio::ip::tcp::endpoint(ip, port),
                                asio::redirect_error(asio::use_awaitable, error));
  if (watchdog.expired()) co_return make_error(ErrorCode::deadline_exceeded, "no answer to connect", object);
  if (error) {
    Error failed = socket_error(error, "connect");
    failed.object = object;
    co_return failed;
  }
  co_return make_tcp_stream(std::move(socket));
}

}  // namespace cube::http
