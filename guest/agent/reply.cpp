#include "reply.hpp"

namespace cube::agent {

// A client that is gone cannot be told so: the result of respond() has no further use.

asio::awaitable<void> reply_error(http::Exchange& exchange, int status, std::string message) {
  JsonWriter json;
  json.begin_object().key("code").value(status).key("message").value(message).end_object();
  co_await reply_json(exchange, status, json.take());
}

asio::awaitable<void> reply_json(http::Exchange& exchange, int status, std::string json) {
  http::ResponseHead head;
  head.status = status;
  head.headers.add("Content-Type", "application/json");
  static_cast<void>(co_await exchange.respond(std::move(head), std::move(json)));
}

asio::awaitable<void> reply_empty(http::Exchange& exchange, int status) {
  http::ResponseHead head;
  head.status = status;
  static_cast<void>(co_await exchange.respond(std::move(head), std::string()));
}

}  // namespace cube::agent
