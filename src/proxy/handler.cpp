// From a request to the sandbox it is for, or to the next handler.
#include <cube/proxy.hpp>

#include "proxy/forward.hpp"
#include "proxy/replies.hpp"

namespace cube::proxy {
namespace {

struct Proxy {
  std::shared_ptr<const Gateway> gateway;
  http::Handler otherwise;
};

asio::awaitable<void> handle(std::shared_ptr<const Proxy> proxy, http::Exchange& exchange) {
  Destination destination = find_destination(exchange.request());
  if (auto* bad = std::get_if<BadTarget>(&destination)) {
    co_await send_reply(exchange, bad_request(bad->message));
  } else if (auto* target = std::get_if<Target>(&destination)) {
    const std::string_view path =
        std::string_view(target->request_target).substr(0, target->request_target.find('?'));
    if (target->port == envd_tcp_port && is_internal_envd_path(path))
      co_await send_reply(exchange, internal_route());
    else
      co_await forward(proxy->gateway, exchange, std::move(*target));
  } else {
    co_await proxy->otherwise(exchange);
  }
}

}  // namespace

http::Handler make_handler(asio::any_io_executor loop, node::Sandboxes& sandboxes, http::Handler otherwise) {
  const auto gateway = std::make_shared<const Gateway>(Gateway{sandboxes, std::make_shared<IdlePool>(loop)});
  const auto proxy = std::make_shared<const Proxy>(Proxy{gateway, std::move(otherwise)});
  return [proxy](http::Exchange& exchange) { return handle(proxy, exchange); };
}

}  // namespace cube::proxy
