// Running a handler on an exchange, the same for HTTP/1.1 and HTTP/2.
#pragma once

#include <cube/http.hpp>

namespace cube::http {

/// What a server wants to know of its exchanges.
class ServedExchange : public Exchange {
 public:
  /// The response is whole, or the connection was handed over.
  virtual bool completed() const = 0;
  /// Nobody waits for the response any more.
  virtual bool client_gone() const = 0;
};

/// What the handler throws is logged; if no response was begun the client gets 500.
asio::awaitable<void> run_handler(const Handler& handler, ServedExchange& exchange);

}  // namespace cube::http
