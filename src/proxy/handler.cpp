// From a request to the sandbox it is for, or to the next handler.
#include <cube/proxy.hpp>

#include "proxy/access.hpp"
#include "proxy/forward.hpp"
#include "proxy/replies.hpp"
#include "proxy/signed_url.hpp"

namespace cube::proxy {
namespace {

struct Proxy {
  std::shared_ptr<const Gateway> gateway;
  std::shared_ptr<SignedUrls> signed_urls;
  http::Handler otherwise;
};

bool is_internal_route(const Target& target) {
  const std::string_view path =
      std::string_view(target.request_target).substr(0, target.request_target.find('?'));
  return target.port == envd_tcp_port && is_internal_envd_path(path);
}

/// Why the sandbox does not get the request, without asking it.
std::optional<Reply> refuse(const Gateway& gateway, const http::RequestHead& request, const Target& target) {
  if (is_internal_route(target)) return internal_route();
  const node::SandboxInfo* sandbox = gateway.sandboxes.peek(target.sandbox_id);
  if (sandbox == nullptr) {
    gateway.pool->drop(target.sandbox_id);
    return sandbox_not_found(request, target);
  }
  return refuse_traffic(request, target, *sandbox);
}

// This and `handle` are no coroutines: each of those costs a frame.

asio::awaitable<void> handle_target(const std::shared_ptr<const Gateway>& gateway, http::Exchange& exchange,
                                    Target target) {
  if (auto refusal = refuse(*gateway, exchange.request(), target))
    return send_reply(exchange, std::move(*refusal));
  auto place = gateway->count->take(target.sandbox_id);
  if (!place)
    return send_reply(exchange, too_many_connections(exchange.request(), target, gateway->count->limit()));
  return forward(gateway, exchange, std::move(target), std::move(place));
}

asio::awaitable<void> handle_signed_url(std::shared_ptr<const Proxy> proxy, http::Exchange& exchange,
                                        SignedUrl url) {
  auto id = co_await SignedUrls::find(proxy->signed_urls, std::move(url));
  if (!id.ok()) {
    Reply reply = unknown_signature();
    if (id.error().code == ErrorCode::resource_exhausted) reply = too_many_signed_urls();
    co_await send_reply(exchange, std::move(reply));
    co_return;
  }
  Target target{std::move(*id), envd_tcp_port, exchange.request().target};
  co_await handle_target(proxy->gateway, exchange, std::move(target));
}

asio::awaitable<void> handle_unnamed(std::shared_ptr<const Proxy> proxy, http::Exchange& exchange) {
  auto parsed = parse_signed_url(exchange.request());
  if (auto* bad = std::get_if<BadTarget>(&parsed))
    co_await send_reply(exchange, bad_request(bad->message));
  else if (auto* url = std::get_if<SignedUrl>(&parsed))
    co_await handle_signed_url(proxy, exchange, std::move(*url));
  else
    co_await proxy->otherwise(exchange);
}

asio::awaitable<void> handle(const std::shared_ptr<const Proxy>& proxy, http::Exchange& exchange) {
  Destination destination = find_destination(exchange.request());
  if (auto* bad = std::get_if<BadTarget>(&destination))
    return send_reply(exchange, bad_request(bad->message));
  if (auto* target = std::get_if<Target>(&destination))
    return handle_target(proxy->gateway, exchange, std::move(*target));
  return handle_unnamed(proxy, exchange);
}

}  // namespace

http::Handler make_handler(asio::any_io_executor loop, node::Sandboxes& sandboxes, http::Handler otherwise,
                           Settings settings) {
  const auto gateway = std::make_shared<const Gateway>(
      Gateway{sandboxes, std::make_shared<IdlePool>(loop),
              std::make_shared<ConnectionCount>(settings.connections_per_sandbox), settings.guest_limits});
  const auto urls = std::make_shared<SignedUrls>(loop, sandboxes, settings.signatures_per_second);
  const auto proxy = std::make_shared<const Proxy>(Proxy{gateway, urls, std::move(otherwise)});
  return [proxy](http::Exchange& exchange) { return handle(proxy, exchange); };
}

}  // namespace cube::proxy
