// Tls: what a server calls to secure its connections. An interface, so that programs without TLS (the agent
// in the guest) are linked without OpenSSL and nghttp2.
#pragma once

#include <chrono>
#include <cube/http.hpp>
#include <memory>

#include "http/connection.hpp"
#include "http/event.hpp"

namespace cube::http {

/// What the first bytes of a connection turned out to be.
struct Opening {
  enum class Protocol { unknown, http1, http2, failed };

  explicit Opening(const asio::any_io_executor& executor) : changed(executor) {}

  void decide(Protocol decided) {
    protocol = decided;
    changed.notify();
  }
  asio::awaitable<void> wait() {
    while (protocol == Protocol::unknown) co_await changed.wait();
  }

  Protocol protocol = Protocol::unknown;
  Event changed;
};

/// All requests of one HTTP/2 connection.
class Http2Server {
 public:
  virtual ~Http2Server() = default;

  /// Returns when the connection has ended.
  virtual asio::awaitable<void> run() = 0;

  /// Ends the exchanges, tells the client, closes the connection.
  virtual void stop() = 0;
};

class Tls {
 public:
  virtual ~Tls() = default;

  virtual Result<void> reload() = 0;
  virtual std::string certificate_end() const = 0;

  /// The stream's first read looks at the first byte and does the handshake if it is TLS's; after `timeout`
  /// without a decision it closes the stream.
  virtual std::unique_ptr<Stream> secure(const asio::any_io_executor& executor, std::unique_ptr<Stream> raw,
                                         std::shared_ptr<Opening> opening, std::chrono::seconds timeout,
                                         std::string remote) = 0;

  virtual std::shared_ptr<Http2Server> make_http2_server(std::shared_ptr<Connection> connection,
                                                         std::shared_ptr<const Handler> handler,
                                                         const Limits& limits) = 0;
};

}  // namespace cube::http
