// HTTP/2 at the client, HTTP/1.1 at the guest, the proxy between them.
#include <asio/redirect_error.hpp>
#include <cube/proxy.hpp>

#include "memory_node.hpp"
#include "replies.hpp"
#include "tls_client.hpp"
#include "tls_server.hpp"

using namespace cube;
using namespace cube::test;
using namespace std::chrono_literals;

namespace {

const std::string id = "iaaaaaaaaaaaaaaaaaaaa";

struct Fixture {
  Fixture() : server([this](http::Exchange& exchange) { return proxy(exchange); }) {
    server.on_loop([this] {
      const auto loop = server.loop.get_executor();
      guest =
          std::make_unique<http::Server>(loop, [this](http::Exchange& exchange) { return answer(exchange); });
      sandboxes.infos.push_back(MemorySandboxes::make(id));
      sandboxes.ports = {{8080, must(guest->listen("127.0.0.1", 0))}};
      proxy = proxy::make_handler(loop, sandboxes, [](http::Exchange& exchange) { return rest(exchange); });
    });
    client.emplace(server.port, server.files().authority);
  }
  ~Fixture() {
    client.reset();
    // The proxy keeps connections, which must not outlive their loop.
    server.on_loop([this] {
      server.server.reset();
      guest.reset();
      proxy = nullptr;
    });
  }

  static asio::awaitable<void> rest(http::Exchange& exchange) {
    const auto sent = co_await exchange.respond(reply(200), "rest");
    static_cast<void>(sent);
  }

  asio::awaitable<void> answer(http::Exchange& exchange) {
    seen = exchange.request();
    const std::string path(exchange.request().path());
    exchange.on_client_gone([this] { client_left = true; });
    if (path != "/wait" && path != "/truncated") {
      co_await echo(exchange, reply(200, "Keep-Alive", "timeout=5"));
      co_return;
    }
    const auto begun = co_await exchange.begin(reply(200), asio::buffer("part", 4));
    asio::steady_timer timer(exchange.executor());
    asio::error_code ignored;
    while (begun.ok() && path == "/wait" && !client_left) {
      timer.expires_after(1ms);
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    exchange.abort();
  }

  static Fields to_guest(std::string method, std::string path, Fields more = {}) {
    Fields fields = Http2Client::head(std::move(method), std::move(path),
                                      {{"e2b-sandbox-id", id}, {"e2b-sandbox-port", "8080"}});
    fields.insert(fields.end(), more.begin(), more.end());
    return fields;
  }

  MemorySandboxes sandboxes;
  http::Handler proxy;
  http::RequestHead seen;
  bool client_left = false;
  TlsServer server;
  std::unique_ptr<http::Server> guest;
  std::optional<Http2Client> client;
};

}  // namespace

TEST_CASE("a body of unknown length reaches the guest chunked, and nothing of HTTP/2 does") {
  Fixture fixture;
  const std::size_t size = 3'000'000;
  Http2Answer answer = fixture.client->ask(
      Fixture::to_guest("POST", "/echo?a=b", {{"te", "trailers"}, {"x-mine", "1"}}), size);
  CHECK(answer.status == 200);
  CHECK(answer.whole);
  CHECK(answer.body_size == size);
  for (const char* name : {"keep-alive", "transfer-encoding", "connection"})
    CHECK_FALSE(answer.headers.contains(name));

  const http::RequestHead seen = fixture.server.on_loop([&] { return fixture.seen; });
  CHECK(seen.target == "/echo?a=b");
  CHECK(seen.headers.get("Host") == "localhost");
  CHECK(seen.headers.get("Transfer-Encoding") == "chunked");
  CHECK(seen.headers.get("X-Mine") == "1");
  for (const auto& [name, value] : seen.headers.fields())
    CHECK_FALSE((name.starts_with(':') || name == "te"));
}

TEST_CASE("one connection mixes sandboxes by header, sandboxes by name and everything else") {
  Fixture fixture;
  CHECK(fixture.client->ask(Fixture::to_guest("GET", "/empty")).status == 200);
  Fields named = Http2Client::head("GET", "/named");
  named[2].second = "8080-" + id + ".cube.local:3000";
  CHECK(fixture.client->ask(named).status == 200);
  CHECK(fixture.server.on_loop([&] { return fixture.seen.target; }) == "/named");
  CHECK(fixture.client->ask(Http2Client::head("GET", "/sandboxes")).body == "rest");
}

TEST_CASE("a guest that breaks off resets its stream only") {
  Fixture fixture;
  const Http2Answer answer = fixture.client->ask(Fixture::to_guest("GET", "/truncated"));
  CHECK_FALSE(answer.whole);
  CHECK(answer.error == NGHTTP2_INTERNAL_ERROR);
  CHECK(fixture.client->ask(Http2Client::head("GET", "/sandboxes")).body == "rest");
}

TEST_CASE("a client that resets a request closes the connection into the guest") {
  Fixture fixture;
  const std::int32_t stream = fixture.client->start(Fixture::to_guest("GET", "/wait"));
  REQUIRE(fixture.client->pump([&] { return fixture.client->answers[stream].body == "part"; }));
  CHECK_FALSE(fixture.server.on_loop([&] { return fixture.client_left; }));
  fixture.client->reset(stream);
  CHECK(fixture.server.eventually([&] { return fixture.client_left; }));
}
