#include "proxy/forward.hpp"

#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include "proxy/headers.hpp"
#include "proxy/replies.hpp"
#include "proxy/transfer.hpp"
#include "proxy/tunnel.hpp"

namespace cube::proxy {
namespace {

// A server that was just started in the sandbox may not listen yet: E2B dials five times, too.
constexpr int most_dials = 5;
constexpr std::chrono::milliseconds first_dial_pause{100};

asio::awaitable<void> pause(std::shared_ptr<Transfer> transfer, std::chrono::milliseconds time) {
  asio::steady_timer& timer = transfer->changed;
  asio::error_code ignored;
  timer.expires_after(time);
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  timer.expires_at(asio::steady_timer::time_point::max());
}

asio::awaitable<Result<std::unique_ptr<Stream>>> dial(const Gateway& gateway, const Target& target,
                                                      std::shared_ptr<Transfer> transfer) {
  for (int dials = 1;; ++dials) {
    auto stream = co_await gateway.sandboxes.open_port(target.sandbox_id, target.port);
    const bool closed_port = !stream.ok() && stream.error().code == ErrorCode::unavailable;
    if (!closed_port || dials == most_dials || transfer->client_gone) co_return stream;
    co_await pause(transfer, dials * first_dial_pause);
    if (transfer->client_gone) co_return make_error(ErrorCode::cancelled, "the client is gone");
  }
}

Reply dial_failure(const http::RequestHead& request, const Target& target, const Error& error) {
  switch (error.code) {
    case ErrorCode::not_found: return sandbox_not_found(request, target);
    case ErrorCode::unavailable: return port_not_open(request, target);
    default: return bad_gateway(request, target, "The sandbox did not answer the connection");
  }
}

bool is_running(const Gateway& gateway, const Target& target) {
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
  return info != nullptr && info->state == node::SandboxState::running;
}

/// Of one that is gone: none that anything waits for.
std::uint64_t incarnation_of(const Gateway& gateway, const Target& target) {
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
  return info != nullptr ? info->incarnation : UINT64_MAX;
}

/// As the guest is to see it; the sandbox may be gone.
http::RequestHead request_for(const node::SandboxInfo* info, const http::RequestHead& request,
                              const Target& target, bool upgrade) {
  http::RequestHead head = forwarded_request(request, target.request_target, upgrade);
  if (info != nullptr && !info->network.mask_request_host.empty())
    mask_host(head.headers, info->network.mask_request_host, target.port);
  return head;
}

Reply no_response(const Gateway& gateway, const http::RequestHead& request, const Target& target,
                  const Transfer& transfer) {
  if (transfer.body_fault) return bad_body(*transfer.body_fault);
  if (!is_running(gateway, target)) return sandbox_not_found(request, target);
  return bad_gateway(request, target, "The sandbox closed the connection without a valid HTTP response");
}

// RFC 9110 section 9.2.2: what may be sent again when nobody knows whether it arrived.
bool is_idempotent(const std::string& method) {
  return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "PUT" ||
         method == "DELETE" || method == "TRACE";
}

// Sends the request (the rest of its body keeps flowing behind) and reads the response's head.
asio::awaitable<Result<http::ResponseHead>> send_request(http::Exchange& exchange,
                                                         std::shared_ptr<Transfer> transfer,
                                                         http::RequestHead head) {
  auto begun = co_await transfer->guest->begin(std::move(head), asio::buffer(transfer->first_piece));
  if (!begun.ok()) co_return std::move(begun).error();
  if (transfer->body_follows) start_body(exchange, transfer);
  co_return co_await transfer->guest->read_head();
}

// Over a waiting connection first: the guest may have closed it just now, which says nothing about the
// sandbox.
asio::awaitable<std::optional<http::ResponseHead>> try_waiting_connection(
    const Gateway& gateway, http::Exchange& exchange, const Target& target,
    std::shared_ptr<Transfer> transfer) {
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
  if (info == nullptr || info->state != node::SandboxState::running) {
    gateway.pool->drop(target.sandbox_id);
    co_return std::nullopt;
  }
  transfer->incarnation = info->incarnation;
  auto waiting = gateway.pool->take(target.sandbox_id, transfer->incarnation, target.port);
  if (!waiting) co_return std::nullopt;
  transfer->guest = std::move(*waiting);
  auto head = request_for(info, exchange.request(), target, false);
  auto response = co_await send_request(exchange, transfer, std::move(head));
  if (response.ok()) co_return std::move(*response);
  co_return std::nullopt;
}

// The response's head, or nothing once the exchange has been answered otherwise.
asio::awaitable<std::optional<http::ResponseHead>> get_response(const Gateway& gateway,
                                                                http::Exchange& exchange,
                                                                const Target& target,
                                                                std::shared_ptr<Transfer> transfer,
                                                                bool upgrade) {
  const http::RequestHead& request = exchange.request();
  if (!upgrade) {
    auto response = co_await try_waiting_connection(gateway, exchange, target, transfer);
    if (response || transfer->client_gone) co_return response;
  }
  // What a failed attempt has taken of the body is lost, and what is not idempotent may have been done.
  const bool sent_before = transfer->guest.has_value();
  if (sent_before && (has_body(request) || !is_idempotent(request.method))) {
    co_await send_reply(exchange, no_response(gateway, request, target, *transfer));
    co_return std::nullopt;
  }
  transfer->guest.reset();
  auto stream = co_await dial(gateway, target, transfer);
  if (transfer->client_gone) co_return std::nullopt;
  if (!stream.ok()) {
    co_await send_reply(exchange, dial_failure(request, target, stream.error()));
    co_return std::nullopt;
  }
  transfer->guest.emplace(std::move(*stream), gateway.guest_limits);
  transfer->incarnation = incarnation_of(gateway, target);
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
  auto head = request_for(info, request, target, upgrade);
  auto response = co_await send_request(exchange, transfer, std::move(head));
  if (response.ok()) co_return std::move(*response);
  if (!transfer->client_gone) co_await send_reply(exchange, no_response(gateway, request, target, *transfer));
  co_return std::nullopt;
}

asio::awaitable<void> switch_protocols(const Gateway& gateway, http::Exchange& exchange, const Target& target,
                                       std::shared_ptr<Transfer> transfer, const http::ResponseHead& response,
                                       bool upgrade) {
  if (!upgrade) {
    transfer->guest->close();  // a switch nobody asked for
    co_await send_reply(exchange, no_response(gateway, exchange.request(), target, *transfer));
    co_return;
  }
  auto client = co_await exchange.upgrade(forwarded_switch(response));
  if (!client.ok()) co_return;
  auto guest = transfer->guest->release();
  co_await run_tunnel(exchange.executor(), std::move(*client), std::move(guest));
}

asio::awaitable<void> carry(const Gateway& gateway, http::Exchange& exchange, const Target& target,
                            std::shared_ptr<Transfer> transfer) {
  const http::RequestHead& request = exchange.request();
  transfer->body_follows = has_body(request);
  if (const std::uint64_t length = announced_length(request); length > 0) {
    const bool arrived = co_await receive_first_piece(exchange, transfer, length);
    if (!arrived) {
      if (transfer->body_fault) co_await send_reply(exchange, bad_body(*transfer->body_fault));
      co_return;
    }
  }
  // envd switches to nothing; what a tunnel carries could not be checked for its internal routes.
  const bool upgrade =
      asks_for_upgrade(request.headers) && !has_body(request) && target.port != envd_tcp_port;
  auto response = co_await get_response(gateway, exchange, target, transfer, upgrade);
  if (!response) co_return;
  if (response->status == 101) {
    co_await switch_protocols(gateway, exchange, target, transfer, *response, upgrade);
    co_return;
  }
  const bool complete = co_await carry_response(exchange, transfer, forwarded_response(std::move(*response)));
  if (!complete) {
    if (exchange.started())
      exchange.abort();  // the client must not take what it has for the whole
    else if (!transfer->client_gone)
      co_await send_reply(exchange, no_response(gateway, request, target, *transfer));
  } else if (!transfer->body_running) {
    gateway.pool->put(target.sandbox_id, transfer->incarnation, target.port, std::move(*transfer->guest));
    transfer->guest.reset();
  }
}

}  // namespace

asio::awaitable<void> forward(std::shared_ptr<const Gateway> gateway, http::Exchange& exchange,
                              Target target) {
  const auto transfer = std::make_shared<Transfer>(exchange.executor());
  exchange.on_client_gone([transfer] { transfer->client_left(); });
  bool failed = false;
  try {
    co_await carry(*gateway, exchange, target, transfer);
  } catch (...) {
    failed = true;  // out of memory
  }
  if (transfer->guest) transfer->guest->close();
  if (failed) exchange.abort();
  co_await body_ended(transfer);
}

}  // namespace cube::proxy
