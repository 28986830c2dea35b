#include "http/handling.hpp"

#include "http/head.hpp"

namespace cube::http {

asio::awaitable<void> run_handler(const Handler& handler, ServedExchange& exchange) {
  const auto report = [&](LogLevel level, std::string_view what) {
    // Without the query: it may carry a signature.
    log(level, "http", what,
        {{"method", exchange.request().method},
         {"path", std::string(exchange.request().path())},
         {"remote", exchange.remote_address()}});
  };
  try {
    co_await handler(exchange);
    if (!exchange.completed() && !exchange.client_gone())
      report(LogLevel::warning, "the handler left the response unfinished");
  } catch (const std::exception& exception) {
    report(LogLevel::error, std::string("the handler threw: ") + exception.what());
  } catch (...) {
    report(LogLevel::error, "the handler threw");
  }
  if (exchange.started()) co_return;
  ResponseHead head{500, {}};
  head.headers.add("Content-Type", "application/json");
  auto ignored = co_await exchange.respond(std::move(head), error_body(500, "internal error"));
  static_cast<void>(ignored);  // if it could not be sent the exchange ends unfinished
}

}  // namespace cube::http
