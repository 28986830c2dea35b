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
http::RequestHead request_for(const Gateway& gateway, const http::RequestHead& request, const Target& target,
                              bool upgrade) {
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
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

/// A connection that waits, if there is one.
bool take_waiting_connection(const Gateway& gateway, const Target& target, Transfer& transfer) {
  const node::SandboxInfo* info = gateway.sandboxes.peek(target.sandbox_id);
  if (info == nullptr || info->state != node::SandboxState::running) {
    gateway.pool->drop(target.sandbox_id);
    return false;
  }
  transfer.incarnation = info->incarnation;
  transfer.guest = gateway.pool->take(target.sandbox_id, transfer.incarnation, target.port);
  return transfer.guest.has_value();
}

/// False once the exchange has been answered otherwise, or the client is gone.
asio::awaitable<bool> open_connection(const Gateway& gateway, http::Exchange& exchange, const Target& target,
                                      std::shared_ptr<Transfer> transfer) {
  auto stream = co_await dial(gateway, target, transfer);
  if (transfer->client_gone) co_return false;
  if (!stream.ok()) {
    co_await send_reply(exchange, dial_failure(exchange.request(), target, stream.error()));
    co_return false;
  }
  transfer->guest.emplace(std::move(*stream), gateway.guest_limits);
  transfer->incarnation = incarnation_of(gateway, target);
  co_return true;
}

/// Sends the request (the rest of its body keeps flowing behind) and reads the response's head; nothing once
/// the exchange has been answered otherwise.
asio::awaitable<std::optional<http::ResponseHead>> get_response(const Gateway& gateway,
                                                                http::Exchange& exchange,
                                                                const Target& target,
                                                                std::shared_ptr<Transfer> transfer,
                                                                bool upgrade) {
  const http::RequestHead& request = exchange.request();
  for (bool waiting = !upgrade && take_waiting_connection(gateway, target, *transfer);; waiting = false) {
    if (!waiting) {
      const bool opened = co_await open_connection(gateway, exchange, target, transfer);
      if (!opened) co_return std::nullopt;
    }
    auto head = request_for(gateway, request, target, upgrade);
    const auto begun = co_await transfer->guest->begin(std::move(head), asio::buffer(transfer->first_piece));
    if (begun.ok()) {
      if (transfer->body_follows) start_body(exchange, transfer);
      auto response = co_await transfer->guest->read_head();
      if (response.ok()) co_return std::move(*response);
    }
    if (transfer->client_gone) co_return std::nullopt;
    // The guest may have closed a waiting connection just now, which says nothing about the sandbox. But what
    // was taken of the body is lost, and what is not idempotent may have been done.
    if (!waiting || has_body(request) || !is_idempotent(request.method)) {
      co_await send_reply(exchange, no_response(gateway, request, target, *transfer));
      co_return std::nullopt;
    }
    transfer->guest.reset();
  }
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

asio::awaitable<void> forward(std::shared_ptr<const Gateway> gateway, http::Exchange& exchange, Target target,
                              [[maybe_unused]] ConnectionCount::Place place) {
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
  if (transfer->body_running) co_await body_ended(transfer);
}

}  // namespace cube::proxy
