#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cube/http.hpp>
#include <unordered_map>
#include <variant>

#include "http/exchange.hpp"

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

/// Closes the connection unless destroyed in time: against a peer that does not read what it is refused with.
class CloseTimer {
 public:
  CloseTimer(const std::shared_ptr<Connection>& connection, std::chrono::seconds time)
      : timer_(connection->executor(), time) {
    timer_.async_wait([weak = std::weak_ptr(connection)](const asio::error_code& cancelled) {
      if (cancelled) return;
      if (const auto connection = weak.lock()) connection->close();
    });
  }

 private:
  asio::steady_timer timer_;
};

asio::awaitable<void> refuse(std::shared_ptr<Connection> connection, Refusal refusal) {
  const CloseTimer timer(connection, refusal_time);
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

NextRequest parse(const std::string& text, const Limits& limits) {
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

  void serve(std::unique_ptr<Stream> stream, std::string remote);
  void stop();

  // The coroutines share this, so that a handler may outlive the server that runs it.
  static asio::awaitable<void> accept(std::shared_ptr<Impl> self, std::shared_ptr<Acceptor> acceptor);
  static asio::awaitable<void> run(std::shared_ptr<Impl> self, std::shared_ptr<Connection> connection);
  static asio::awaitable<void> handle(std::shared_ptr<Impl> self, std::shared_ptr<Connection> connection,
                                      ServerExchange& exchange);

  asio::any_io_executor loop;
  Handler handler;
  Limits limits;
  std::vector<std::shared_ptr<Acceptor>> acceptors;
  std::unordered_map<Connection*, std::weak_ptr<Connection>> connections;  ///< those not closed
  bool stopped = false;
};

void Server::Impl::serve(std::unique_ptr<Stream> stream, std::string remote) {
  if (stopped || connections.size() >= limits.connections + refusals_at_once) return stream->close();
  const auto connection = std::make_shared<Connection>(loop, std::move(stream), std::move(remote));
  const bool over_limit = connections.size() >= limits.connections;
  connections.emplace(connection.get(), connection);
  connection->on_close([weak = weak_from_this(), key = connection.get()] {
    if (const auto self = weak.lock()) self->connections.erase(key);
  });
  connection->start();
  auto work =
      over_limit ? refuse(connection, {503, "too many connections"}) : run(shared_from_this(), connection);
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
  for (const auto& [key, weak] : std::exchange(connections, {}))
    if (const auto connection = weak.lock()) connection->close();
}

asio::awaitable<void> Server::Impl::accept(std::shared_ptr<Impl> self, std::shared_ptr<Acceptor> acceptor) {
  asio::steady_timer pause(self->loop);
  while (acceptor->is_open()) {
    asio::error_code error;
    asio::ip::tcp::socket socket(self->loop);
    asio::ip::tcp::endpoint peer;
    co_await acceptor->async_accept(socket, peer, asio::redirect_error(asio::use_awaitable, error));
    if (!error) {
      self->serve(make_tcp_stream(std::move(socket)), to_text(peer));
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

asio::awaitable<void> Server::Impl::run(std::shared_ptr<Impl> self, std::shared_ptr<Connection> connection) {
  for (;;) {
    NextRequest next = co_await read_request(connection, self->limits);
    if (auto* refusal = std::get_if<Refusal>(&next)) {
      co_await refuse(connection, std::move(*refusal));
      co_return;
    }
    if (!std::holds_alternative<ParsedRequest>(next)) break;
    ServerExchange exchange(connection, std::get<ParsedRequest>(std::move(next)));
    co_await handle(self, connection, exchange);
    if (exchange.upgraded()) co_return;  // the connection belongs to the raw stream now
    if (!exchange.finished()) {
      connection->close();  // at once: the client must not take what it has for the whole
      co_return;
    }
    const bool again = co_await exchange.settle();
    if (!again) break;
  }
  co_await connection->close_gently();
}

asio::awaitable<void> Server::Impl::handle(std::shared_ptr<Impl> self, std::shared_ptr<Connection> connection,
                                           ServerExchange& exchange) {
  const auto report = [&](LogLevel level, std::string_view what) {
    // Without the query: it may carry a signature.
    log(level, "http", what,
        {{"method", exchange.request().method},
         {"path", std::string(exchange.request().path())},
         {"remote", connection->remote()}});
  };
  try {
    co_await self->handler(exchange);
    const bool complete = exchange.finished() || exchange.upgraded();
    if (!complete && !connection->ended())
      report(LogLevel::warning, "the handler left the response unfinished");
  } catch (const std::exception& exception) {
    report(LogLevel::error, std::string("the handler threw: ") + exception.what());
  } catch (...) {
    report(LogLevel::error, "the handler threw");
  }
  if (exchange.started() || connection->closed()) co_return;
  ResponseHead head{500, {{"Content-Type", "application/json"}}};
  auto ignored = co_await exchange.respond(std::move(head), error_body(500, "internal error"));
  static_cast<void>(ignored);  // if it could not be sent the connection ends
}

Server::Server(asio::any_io_executor loop, Handler handler, Limits limits)
    : impl_(std::make_shared<Impl>(std::move(loop), std::move(handler), limits)) {}

Server::~Server() { stop(); }

Result<std::uint16_t> Server::listen(const std::string& address, std::uint16_t port) {
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
  asio::co_spawn(impl_->loop, Impl::accept(impl_, acceptor), asio::detached);
  return bound.port();
}

void Server::serve(std::unique_ptr<Stream> connection, std::string remote) {
  impl_->serve(std::move(connection), std::move(remote));
}

void Server::stop() { impl_->stop(); }

std::size_t Server::connection_count() const { return impl_->connections.size(); }

}  // namespace cube::http
