#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/http.hpp>
#include <unordered_map>
#include <variant>

#include "http/exchange.hpp"
#include "http/tls.hpp"
#include "http/watchdog.hpp"

namespace cube::http {
namespace {

using Acceptor = asio::ip::tcp::acceptor;

// Connections over the limit that are told so; further ones are dropped without a word.
constexpr std::size_t refusals_at_once = 64;
constexpr std::chrono::seconds refusal_time{5};
constexpr std::chrono::milliseconds accept_pause{100};

std::string to_text(const asio::ip::tcp::endpoint& endpoint) {
  const std::string address = endpoint.address().to_string();
  const std::string port = std::to_string(endpoint.port());
  return endpoint.address().is_v6() ? "[" + address + "]:" + port : address + ":" + port;
}

Refusal over_limit_refusal() { return {503, "too many connections"}; }

asio::awaitable<void> refuse(std::shared_ptr<Connection> connection, Refusal refusal) {
  // Against a peer that does not read what it is refused with.
  const Watchdog watchdog(connection->executor(), refusal_time, [&] { connection->close(); });
  std::string body = error_body(refusal.status, refusal.message);
  ResponseHead head{refusal.status,
                    {{"Content-Type", "application/json"},
                     {"Content-Length", std::to_string(body.size())},
                     {"Connection", "close"}}};
  const std::string text = write_response_head(head) + body;
  const auto sent = co_await connection->send(asio::buffer(text));
  if (sent.ok()) co_await connection->close_gently();
  connection->close();
}

/// The next request, why it is refused, or nothing because none comes any more.
using NextRequest = std::variant<std::monostate, ParsedRequest, Refusal>;

NextRequest parse(std::string_view text, const Limits& limits) {
  auto parsed = parse_request_head(text, limits);
  if (auto* refusal = std::get_if<Refusal>(&parsed)) return std::move(*refusal);
  return std::get<ParsedRequest>(std::move(parsed));
}

asio::awaitable<NextRequest> read_request(std::shared_ptr<Connection> connection, Limits limits) {
  HeadCollector collector(limits.head_bytes);
  SteadyTime deadline = std::chrono::steady_clock::now() + limits.idle_timeout;
  while (!connection->closed()) {
    if (connection->input().empty()) {
      if (connection->ended()) break;
      if (std::chrono::steady_clock::now() >= deadline) {
        if (!collector.started()) break;
        co_return Refusal{408, "the request's head did not arrive in time"};
      }
      co_await connection->wait_for_input(deadline);
      continue;
    }
    const bool was_started = collector.started();
    std::size_t consumed = 0;
    const HeadCollector::State state = collector.feed(connection->input(), consumed);
    connection->consume(consumed);
    switch (state) {
      case HeadCollector::State::complete: co_return parse(collector.text(), limits);
      case HeadCollector::State::too_large:
        co_return Refusal{431, "the head is larger than " + std::to_string(limits.head_bytes) + " bytes"};
      case HeadCollector::State::malformed: co_return Refusal{400, "malformed line end in the head"};
      case HeadCollector::State::more: break;
    }
    if (!was_started && collector.started())
      deadline = std::chrono::steady_clock::now() + limits.head_timeout;
  }
  co_return std::monostate{};
}

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Impl> {
  Impl(asio::any_io_executor executor, Handler function, Limits bounds)
      : loop(std::move(executor)), handler(std::move(function)), limits(bounds) {}

  void serve(std::unique_ptr<Stream> stream, std::string remote, std::shared_ptr<Tls> tls = nullptr);
  void stop();

  // The coroutines share this, so that a handler may outlive the server that runs it.
  using Self = std::shared_ptr<Impl>;
  static asio::awaitable<void> accept(Self self, std::shared_ptr<Acceptor> acceptor,
                                      std::shared_ptr<Tls> tls);
  static asio::awaitable<void> run(Self self, std::shared_ptr<Connection> connection);
  static asio::awaitable<void> run_opened(Self self, std::shared_ptr<Connection> connection,
                                          std::shared_ptr<Opening> opening, std::shared_ptr<Tls> tls,
                                          bool over_limit);

  /// One that is not closed.
  struct Known {
    std::weak_ptr<Connection> connection;
    std::weak_ptr<Http2Server> http2;  ///< if that is spoken on it
  };

  asio::any_io_executor loop;
  Handler handler;
  Limits limits;
  std::vector<std::shared_ptr<Acceptor>> acceptors;
  std::unordered_map<Connection*, Known> connections;
  bool stopped = false;
};

void Server::Impl::serve(std::unique_ptr<Stream> stream, std::string remote, std::shared_ptr<Tls> tls) {
  if (stopped || connections.size() >= limits.connections + refusals_at_once) return stream->close();
  std::shared_ptr<Opening> opening;
  if (tls) {
    opening = std::make_shared<Opening>(loop);
    stream = tls->secure(loop, std::move(stream), opening, limits.head_timeout, remote);
  }
  const auto connection = std::make_shared<Connection>(loop, std::move(stream), std::move(remote));
  const bool over_limit = connections.size() >= limits.connections;
  connections.emplace(connection.get(), Known{connection, {}});
  connection->on_close([weak = weak_from_this(), key = connection.get()] {
    if (const auto self = weak.lock()) self->connections.erase(key);
  });
  connection->start();
  auto work = opening      ? run_opened(shared_from_this(), connection, opening, tls, over_limit)
              : over_limit ? refuse(connection, over_limit_refusal())
                           : run(shared_from_this(), connection);
  asio::co_spawn(loop, std::move(work), [connection](std::exception_ptr failure) {
    if (failure) connection->close();  // out of memory: this connection's loss only
  });
}

void Server::Impl::stop() {
  stopped = true;
  for (const auto& acceptor : acceptors) {
    asio::error_code ignored;
    acceptor->close(ignored);
  }
  acceptors.clear();
  // Closing a connection takes it off the map.
  for (const auto& [key, known] : std::exchange(connections, {})) {
    if (const auto http2 = known.http2.lock())
      http2->stop();
    else if (const auto connection = known.connection.lock())
      connection->close();
  }
}

asio::awaitable<void> Server::Impl::accept(Self self, std::shared_ptr<Acceptor> acceptor,
                                           std::shared_ptr<Tls> tls) {
  asio::steady_timer pause(self->loop);
  while (acceptor->is_open()) {
    asio::error_code error;
    asio::ip::tcp::socket socket(self->loop);
    asio::ip::tcp::endpoint peer;
    co_await acceptor->async_accept(socket, peer, asio::redirect_error(asio::use_awaitable, error));
    if (!error) {
      self->serve(make_tcp_stream(std::move(socket)), to_text(peer), tls);
      continue;
    }
    if (!acceptor->is_open()) break;
    if (error == asio::error::connection_aborted) continue;
    // Out of descriptors or memory: the waiting connection stays ready, so trying again at once would spin.
    log(LogLevel::error, "http", "cannot accept a connection", {{"error", error.message()}});
    pause.expires_after(accept_pause);
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
  }
}

asio::awaitable<void> Server::Impl::run_opened(Self self, std::shared_ptr<Connection> connection,
                                               std::shared_ptr<Opening> opening, std::shared_ptr<Tls> tls,
                                               bool over_limit) {
  co_await opening->wait();
  const bool http2 = opening->protocol == Opening::Protocol::http2;
  if (over_limit && !http2) {
    co_await refuse(connection, over_limit_refusal());
  } else if (over_limit || connection->closed()) {
    connection->close();
  } else if (http2) {
    const auto server = tls->make_http2_server(
        connection, std::shared_ptr<const Handler>(self, &self->handler), self->limits);
    const auto known = self->connections.find(connection.get());
    if (known != self->connections.end()) known->second.http2 = server;
    co_await server->run();
  } else {
    co_await run(self, connection);
  }
}

asio::awaitable<void> Server::Impl::run(Self self, std::shared_ptr<Connection> connection) {
  for (;;) {
    NextRequest next = co_await read_request(connection, self->limits);
    if (auto* refusal = std::get_if<Refusal>(&next)) {
      co_await refuse(connection, std::move(*refusal));
      co_return;
    }
    if (!std::holds_alternative<ParsedRequest>(next)) break;
    ServerExchange exchange(connection, std::get<ParsedRequest>(std::move(next)), self->limits.body_timeout);
    co_await run_handler(self->handler, exchange);
    if (exchange.upgraded()) co_return;  // the connection belongs to the raw stream now
    if (!exchange.finished()) {
      connection->close();  // at once: the client must not take what it has for the whole
      co_return;
    }
    if (!exchange.keeps_connection()) break;
    if (exchange.drained()) continue;
    const bool drained = co_await exchange.drain();
    if (!drained) break;
  }
  co_await connection->close_gently();
}

Server::Server(asio::any_io_executor loop, Handler handler, Limits limits)
    : impl_(std::make_shared<Impl>(std::move(loop), std::move(handler), limits)) {}

Server::~Server() { stop(); }

Result<std::uint16_t> Server::listen(const std::string& address, std::uint16_t port,
                                     std::shared_ptr<Tls> tls) {
  asio::error_code error;
  const auto ip = asio::ip::make_address(address == "localhost" ? "127.0.0.1" : address, error);
  if (error) return make_error(ErrorCode::invalid_argument, "not an IP address", address);
  const asio::ip::tcp::endpoint endpoint(ip, port);
  const std::string object = to_text(endpoint);

  auto acceptor = std::make_shared<Acceptor>(impl_->loop);
  acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use)
    return make_error(ErrorCode::already_exists, "the address is in use by another program", object);
  if (error) return os_error(error.value(), "cannot listen", object);
  const auto bound = acceptor->local_endpoint(error);
  if (error) return os_error(error.value(), "cannot listen", object);

  impl_->acceptors.push_back(acceptor);
  asio::co_spawn(impl_->loop, Impl::accept(impl_, acceptor, std::move(tls)), asio::detached);
  return bound.port();
}

void Server::serve(std::unique_ptr<Stream> connection, std::string remote) {
  impl_->serve(std::move(connection), std::move(remote));
}

void Server::stop() { impl_->stop(); }

std::size_t Server::connection_count() const { return impl_->connections.size(); }

}  // namespace cube::http
