// The proxy over real connections: a client, the proxy, and a server on this machine that stands for the
// guest's.
#pragma once

#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <cube/proxy.hpp>

#include "event_loop.hpp"
#include "memory_node.hpp"
#include "proxy/target.hpp"
#include "replies.hpp"

namespace cube::test {

using namespace std::chrono_literals;

inline const std::string id = "iaaaaaaaaaaaaaaaaaaaa";
inline constexpr std::uint16_t web = 8080, closed_port = 8081, garbage = 8082;

/// The server in the guest: a few paths, each showing one behaviour.
struct Guest {
  asio::awaitable<void> answer(http::Exchange& exchange) {
    const std::string path(exchange.request().path());
    ++requests;
    last_request = exchange.request();
    last_remote = exchange.remote_address();
    if (path == "/echo")
      co_await echo(exchange);
    else if (path == "/wait")
      co_await wait(exchange);
    else if (path == "/truncated")
      co_await truncate(exchange);
    else if (path == "/sized")
      co_await sized(exchange);
    else if (path == "/upgrade")
      co_await upgrade(exchange);
    else if (path == "/early")
      co_await exchange.respond(reply(413), "too much");
    else if (path == "/empty")
      co_await exchange.respond(reply(204), "");
    else if (path == "/unmodified")
      co_await exchange.respond(reply(304, "ETag", "\"1\""), "");
    else if (path == "/body")
      co_await whole_body(exchange);
    else
      co_await exchange.respond(reply(200, "X-Guest", "yes"), exchange.request().target);
  }

  asio::awaitable<void> wait(http::Exchange& exchange) {
    exchange.on_client_gone([this] {
      client_left = true;
      woken.cancel();
    });
    auto done = co_await exchange.begin(reply(200));
    done = co_await exchange.write(asio::buffer("start", 5));
    waiting = true;
    asio::error_code ignored;
    while (!client_left && !end_waiting)
      co_await woken.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    done = co_await exchange.finish();
  }

  static asio::awaitable<void> truncate(http::Exchange& exchange) {
    auto done = co_await exchange.begin(reply(200));
    done = co_await exchange.write(asio::buffer("part", 4));
    exchange.abort();
  }

  static asio::awaitable<void> sized(http::Exchange& exchange) {
    auto done = co_await exchange.begin(reply(200, "Content-Length", "6"));
    done = co_await exchange.write(asio::buffer("one", 3));
    done = co_await exchange.write(asio::buffer("two", 3));
    done = co_await exchange.finish();
  }

  static asio::awaitable<void> whole_body(http::Exchange& exchange) {
    auto body = co_await exchange.read_whole_body(16 << 20);
    const std::string text = body.ok() ? std::to_string(body->size()) : "failed";
    co_await exchange.respond(reply(200), text);
  }

  asio::awaitable<void> upgrade(http::Exchange& exchange) {
    if (!exchange.request().headers.get("Upgrade")) {
      co_await exchange.respond(reply(426), "");
      co_return;
    }
    auto stream = co_await exchange.upgrade(reply(101, "Upgrade", "echo"));
    if (!stream.ok()) co_return;
    char buffer[100];
    for (;;) {
      const auto count = co_await (*stream)->read_some(asio::buffer(buffer));
      if (!count.ok() || *count == 0) break;
      if (std::string_view(buffer, *count) == "bye") co_return;
      const auto sent = co_await (*stream)->write(asio::buffer(buffer, *count));
      if (!sent.ok()) break;
    }
    client_left = true;
  }

  explicit Guest(asio::io_context& loop)
      : woken(loop, asio::steady_timer::time_point::max()),
        server(loop.get_executor(), [this](http::Exchange& exchange) { return answer(exchange); }),
        port(must(server.listen("127.0.0.1", 0))) {}

  int requests = 0;
  http::RequestHead last_request;
  std::string last_remote;
  bool waiting = false, end_waiting = false, client_left = false;
  asio::steady_timer woken;
  http::Server server;
  std::uint16_t port;
};

/// Takes connections, reads up to the end of a head, sends `answers` in turn and closes.
struct RawGuest {
  explicit RawGuest(asio::io_context& loop) : acceptor(loop, {asio::ip::make_address("127.0.0.1"), 0}) {
    asio::co_spawn(loop, serve(), asio::detached);
  }
  std::uint16_t port() const { return acceptor.local_endpoint().port(); }

  asio::awaitable<void> serve() {
    for (;;) {
      asio::error_code error;
      asio::ip::tcp::socket socket(acceptor.get_executor());
      co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      ++connections;
      asio::co_spawn(acceptor.get_executor(), answer(http::make_tcp_stream(std::move(socket)), answers),
                     asio::detached);
    }
  }

  static asio::awaitable<void> answer(std::unique_ptr<Stream> stream, std::vector<std::string> answers) {
    for (const std::string& text : answers) {
      std::string received;
      char buffer[1000];
      while (received.find("\r\n\r\n") == std::string::npos) {
        const auto count = co_await stream->read_some(asio::buffer(buffer));
        if (!count.ok() || *count == 0) co_return;
        received.append(buffer, *count);
      }
      const auto sent = co_await stream->write(asio::buffer(text));
      if (!sent.ok()) co_return;
    }
  }

  asio::ip::tcp::acceptor acceptor;
  std::vector<std::string> answers;
  int connections = 0;
};

/// A connection that counts what is written to it.
class CountedStream final : public Stream {
 public:
  CountedStream(std::unique_ptr<Stream> stream, int& writes) : stream_(std::move(stream)), writes_(writes) {}
  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    return stream_->read_some(buffer);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    ++writes_;
    return stream_->write(buffer);
  }
  void shutdown_write() override { stream_->shutdown_write(); }
  void close() override { stream_->close(); }
  std::shared_ptr<StreamSocket> socket() override { return stream_->socket(); }

 private:
  std::unique_ptr<Stream> stream_;
  int& writes_;
};

inline asio::awaitable<void> answer_rest(http::Exchange& exchange) {
  const auto sent = co_await exchange.respond(reply(200), "rest " + exchange.request().target);
  static_cast<void>(sent);
}

struct Fixture {
  explicit Fixture(proxy::Settings settings = {}, http::Limits limits = {})
      : guest(loop),
        raw(loop),
        server(loop.get_executor(),
               proxy::make_handler(loop.get_executor(), sandboxes, answer_rest, std::move(settings)), limits),
        port(must(server.listen("127.0.0.1", 0))) {
    sandboxes.infos.push_back(MemorySandboxes::make(id));
    sandboxes.ports = {{web, guest.port}, {garbage, raw.port()}, {proxy::envd_tcp_port, guest.port}};
  }

  /// Sends `text` and gives back all that comes until the proxy closes the connection.
  std::string talk(std::string text) {
    std::string received;
    run(loop, [&]() -> asio::awaitable<void> {
      RawClient client = co_await RawClient::connect(port);
      co_await client.send(text);
      received = co_await client.read_to_end();
    });
    return received;
  }

  /// The connection counts what the proxy writes to it.
  asio::awaitable<RawClient> counted_client(int& writes) {
    asio::ip::tcp::acceptor acceptor(loop, {asio::ip::make_address("127.0.0.1"), 0});
    RawClient client = co_await RawClient::connect(acceptor.local_endpoint().port());
    auto socket = co_await acceptor.async_accept(asio::use_awaitable);
    server.serve(std::make_unique<CountedStream>(http::make_tcp_stream(std::move(socket)), writes),
                 "counted");
    co_return client;
  }

  asio::io_context loop;
  Guest guest;
  RawGuest raw;
  MemorySandboxes sandboxes;
  http::Server server;
  std::uint16_t port;
};

inline std::string request(const std::string& target, std::uint16_t port = web, const std::string& more = "",
                           const std::string& method = "GET") {
  return method + " " + target + " HTTP/1.1\r\nHost: localhost:3000\r\nE2b-Sandbox-Id: " + id +
         "\r\nE2b-Sandbox-Port: " + std::to_string(port) + "\r\n" + more;
}

inline const std::string last = "Connection: close\r\n\r\n";
inline const std::string chunked = "Transfer-Encoding: chunked\r\n\r\n";

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}
inline std::string body_of(const std::string& response) {
  return response.substr(response.find("\r\n\r\n") + 4);
}
inline bool has_status(const std::string& response, int status) {
  return response.starts_with("HTTP/1.1 " + std::to_string(status) + " ");
}

}  // namespace cube::test
