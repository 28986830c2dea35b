#include "envd.hpp"

#include <cube/guest.hpp>

#include "cors.hpp"
#include "environment.hpp"
#include "reply.hpp"
#include "services.hpp"

namespace cube::agent {
namespace {

constexpr std::size_t init_limit = 1 << 20;
constexpr auto no_access =
    "unauthorized access, please provide a valid access token or method signing if supported";

http::ResponseHead initialised_head() {
  http::ResponseHead head;
  head.status = 204;
  head.headers.add("X-Envd-Version", guest::envd_version);
  return head;
}

std::string environment_json(const Settings& settings) {
  JsonWriter json;
  json.begin_object();
  for (const auto& [name, value] : default_environment(settings)) json.key(name).value(value);
  return json.end_object().take();
}

}  // namespace

bool tokens_equal(std::string_view left, std::string_view right) {
  if (left.size() != right.size()) return false;
  volatile unsigned char difference = 0;
  for (std::size_t i = 0; i < left.size(); ++i)
    difference = static_cast<unsigned char>(difference | (left[i] ^ right[i]));
  return difference == 0;
}

Result<void> Envd::check_access(const http::RequestHead& head) const {
  if (settings_.access_token.empty()) return {};
  if (const auto token = head.headers.get("X-Access-Token"))
    return tokens_equal(*token, settings_.access_token) ? Result<void>{}
                                                        : make_error(ErrorCode::unauthenticated, no_access);
  if (head.path() == "/files" && http::query_parameter(head.query(), "signature"))
    return check_files_signature(head, settings_);
  return make_error(ErrorCode::unauthenticated, no_access);
}

asio::awaitable<void> Envd::serve(http::Exchange& exchange) {
  CorsExchange shared(exchange);
  if (exchange.request().method == "OPTIONS") {
    co_await reply_empty(shared, 204);
    co_return;
  }
  co_await serve_route(shared);
}

asio::awaitable<void> Envd::serve_route(http::Exchange& exchange) {
  const http::RequestHead& head = exchange.request();
  const std::string_view path = head.path();
  const bool reads = head.method == "GET" || head.method == "HEAD";
  if (path == "/health" && reads) {
    co_await reply_empty(exchange, 204);
    co_return;
  }
  if (path == "/init" && head.method == "POST") {
    co_await serve_init(exchange);
    co_return;
  }
  if (auto allowed = check_access(head); !allowed) {
    co_await reply_error(exchange, http_status(allowed.error().code), allowed.error().message);
  } else if (path == "/metrics" && reads) {
    co_await reply_json(exchange, 200, metrics_json(cpu_usage_));
  } else if (path == "/envs" && reads) {
    co_await reply_json(exchange, 200, environment_json(settings_));
  } else if (path == "/files") {
    co_await serve_files(exchange, settings_);
  } else if (path == "/files/compose") {
    co_await serve_compose(exchange, settings_);
  } else if (path == "/health" || path == "/metrics" || path == "/envs") {
    co_await reply_error(exchange, 405, "this path is read with GET");
  } else if (!co_await router_.serve(exchange)) {
    co_await reply_error(exchange, 404, "no such path: " + std::string(path));
  }
}

/// Its own access check: the token is in the message.
asio::awaitable<void> Envd::serve_init(http::Exchange& exchange) {
  const auto body = co_await exchange.read_whole_body(init_limit);
  Result<void> done;
  if (!body.ok()) {
    done = body.error();
  } else if (const auto message = JsonObject::parse(body->empty() ? "{}" : *body); !message.ok()) {
    done = message.error();
  } else {
    done = init_.apply(*message, settings_);
  }
  if (done.ok()) {
    static_cast<void>(co_await exchange.respond(initialised_head(), std::string()));
    co_return;
  }
  co_await reply_error(exchange, http_status(done.error().code), done.error().message);
}

}  // namespace cube::agent
