// HTTP/2 over TLS on real sockets: the client is nghttp2's and OpenSSL's, and raw frames where it must
// misbehave.
#include <asio/redirect_error.hpp>
#include <atomic>
#include <catch2/catch.hpp>

#include "replies.hpp"
#include "tls_client.hpp"
#include "tls_server.hpp"

using namespace cube;
using namespace cube::http;
using namespace cube::test;
using namespace std::chrono_literals;

namespace {

/// What most tests talk to: a few paths, each showing one behaviour.
struct Site {
  asio::awaitable<void> answer(Exchange& exchange) {
    ++requests;
    ++running;
    struct Leave {
      Site& site;
      ~Leave() { --site.running; }
    };
    const Leave leave{*this};
    const std::string path(exchange.request().path());
    if (path == "/echo")
      co_await echo(exchange);
    else if (path == "/wait")
      co_await wait(exchange);
    else if (path == "/pieces")
      co_await send_pieces(exchange);
    else if (path == "/flood")
      co_await flood(exchange);
    else if (path == "/unread")
      co_await leave_unread(exchange);
    else if (path == "/whole")
      co_await read_whole(exchange);
    else if (path == "/abort")
      co_await abort(exchange);
    else if (path == "/short")
      co_await fall_short(exchange);
    else if (path == "/upgrade")
      co_await upgrade(exchange);
    else
      co_await say_hello(exchange);
  }

  asio::awaitable<void> say_hello(Exchange& exchange) {
    const std::string path(exchange.request().path());
    if (path == "/throw") throw TestError("on purpose");
    if (path == "/silent") co_return;
    if (path == "/empty") {
      const auto sent = co_await exchange.respond(reply(204), "");
      co_return must(Result<void>(sent));
    }
    const std::string host(exchange.request().headers.get("Host").value_or("none"));
    ResponseHead head = reply(200, "X-Answer", "yes");
    head.headers.add("Connection", "close");
    const std::string text = exchange.request().method + " " + path + " " + host;
    const auto sent = co_await exchange.respond(std::move(head), text);
    must(Result<void>(sent));
  }

  asio::awaitable<void> until_released(Exchange& exchange) {
    asio::steady_timer timer(exchange.executor());
    asio::error_code ignored;
    while (!released && !exchange_gone) {
      timer.expires_after(1ms);
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
  }

  asio::awaitable<void> wait(Exchange& exchange) {
    exchange.on_client_gone([this] {
      ++gone;
      exchange_gone = true;
    });
    co_await until_released(exchange);
    const auto sent = co_await exchange.respond(reply(200), "released");
    last_send_failed = !sent.ok();
  }

  asio::awaitable<void> send_pieces(Exchange& exchange) {
    auto done = co_await exchange.begin(reply(200));
    done = co_await exchange.write(asio::buffer("one", 3));
    co_await until_released(exchange);
    done = co_await exchange.write(asio::buffer("two", 3));
    done = co_await exchange.finish();
    must(std::move(done));
  }

  asio::awaitable<void> flood(Exchange& exchange) {
    const std::string piece(64 << 10, 'x');
    auto done = co_await exchange.begin(reply(200));
    for (int i = 0; i < 512 && done.ok(); ++i) {
      done = co_await exchange.write(asio::buffer(piece));
      if (done.ok()) written += piece.size();
    }
    done = co_await exchange.finish();
  }

  asio::awaitable<void> leave_unread(Exchange& exchange) {
    co_await until_released(exchange);
    co_await read_whole(exchange);
  }

  static asio::awaitable<void> read_whole(Exchange& exchange) {
    auto body = co_await exchange.read_whole_body(4 << 20);
    const int status = body.ok() ? 200 : body.error().code == ErrorCode::resource_exhausted ? 413 : 400;
    const std::string text = body.ok() ? std::to_string(body->size()) : "refused";
    const auto sent = co_await exchange.respond(reply(status), text);
    static_cast<void>(sent);
  }

  asio::awaitable<void> abort(Exchange& exchange) {
    auto done = co_await exchange.begin(reply(200));
    done = co_await exchange.write(asio::buffer("part", 4));
    exchange.abort();
    done = co_await exchange.write(asio::buffer("more", 4));
    last_send_failed = !done.ok();
  }

  static asio::awaitable<void> fall_short(Exchange& exchange) {
    auto done = co_await exchange.begin(reply(200, "Content-Length", "10"));
    done = co_await exchange.write(asio::buffer("part", 4));
    done = co_await exchange.finish();
    if (done.ok()) throw TestError("a body may fall short of its length");
  }

  static asio::awaitable<void> upgrade(Exchange& exchange) {
    const auto stream = co_await exchange.upgrade(reply(101));
    const int status = !stream.ok() && stream.error().code == ErrorCode::unimplemented ? 501 : 500;
    const auto sent = co_await exchange.respond(reply(status), "");
    static_cast<void>(sent);
  }

  std::atomic<int> requests = 0, running = 0, gone = 0;
  std::atomic<bool> released = false, exchange_gone = false, last_send_failed = false;
  std::atomic<std::size_t> written = 0;
};

struct Fixture {
  explicit Fixture(Limits limits = {})
      : server([this](Exchange& exchange) { return site.answer(exchange); }, limits),
        client(server.port, server.files().authority) {}

  Http2Answer ask(const std::string& method, const std::string& path, Fields more = {},
                  std::size_t body_size = 0) {
    return client.ask(Http2Client::head(method, path, std::move(more)), body_size);
  }

  Site site;
  TlsServer server;
  Http2Client client;
};

/// A client that sends what nghttp2 would not.
struct RawFrames {
  explicit RawFrames(const TlsServer& server) : tls(server.port, {server.files().authority, "\x02h2"}) {
    tls.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, ""));
  }

  static std::string frame(int type, int flags, std::uint32_t stream, const std::string& payload) {
    std::string text;
    for (const int shift : {16, 8, 0}) text += static_cast<char>(payload.size() >> shift);
    text += static_cast<char>(type);
    text += static_cast<char>(flags);
    for (const int shift : {24, 16, 8, 0}) text += static_cast<char>(stream >> shift);
    return text + payload;
  }

  /// Sends the same frame until the server ends the connection. False if it took `most` of them.
  bool ended_before(std::size_t most, const std::string& repeated) {
    for (std::size_t sent = 0; sent < most; ++sent) {
      if (!tls.send(repeated)) return true;
      while (tls.readable(0))
        if (tls.receive().empty()) return true;
    }
    while (tls.readable(5000))
      if (tls.receive().empty()) return true;
    return false;
  }

  TlsClient tls;
};

Limits with_idle_timeout(std::chrono::seconds time) {
  Limits limits;
  limits.idle_timeout = time;
  return limits;
}

}  // namespace

TEST_CASE("a request over HTTP/2 is answered, without what is about connections") {
  Fixture fixture;
  Http2Answer answer = fixture.ask("GET", "/hello?a=b");
  CHECK(answer.status == 200);
  CHECK(answer.body == "GET /hello localhost");
  CHECK(answer.whole);
  CHECK(answer.error == 0);
  CHECK(answer.headers["x-answer"] == "yes");
  CHECK(answer.headers["content-length"] == "20");
  CHECK_FALSE(answer.headers.contains("connection"));
  // The same connection goes on.
  CHECK(fixture.ask("GET", "/again").body == "GET /again localhost");
}

TEST_CASE("a small body comes with its head, announced or not") {
  Fixture fixture;
  for (const Fields& length : {Fields(), Fields{{"content-length", "5"}}}) {
    const Http2Answer answer = fixture.ask("POST", "/whole", length, 5);
    CHECK(answer.status == 200);
    CHECK(answer.body == "5");
  }
  CHECK(fixture.ask("POST", "/whole").body == "0");
}

TEST_CASE("HEAD and 204 have no body, upgrades are not for HTTP/2") {
  Fixture fixture;
  Http2Answer head = fixture.ask("HEAD", "/hello");
  CHECK(head.status == 200);
  CHECK(head.headers["content-length"] == "21");
  CHECK((head.body.empty() && head.whole));
  const Http2Answer empty = fixture.ask("GET", "/empty");
  CHECK(empty.status == 204);
  CHECK((empty.whole && !empty.headers.contains("content-length")));
  CHECK(fixture.ask("GET", "/upgrade").status == 501);
}

TEST_CASE("the pieces of a response arrive before it ends") {
  Fixture fixture;
  const std::int32_t id = fixture.client.start(Http2Client::head("GET", "/pieces"));
  Http2Answer& answer = fixture.client.answers[id];
  REQUIRE(fixture.client.pump([&] { return answer.body == "one"; }));
  CHECK_FALSE(answer.whole);
  fixture.site.released = true;
  REQUIRE(fixture.client.pump([&] { return answer.closed; }));
  CHECK(answer.body == "onetwo");
  CHECK(answer.whole);
}

TEST_CASE("large bodies flow both ways at the same time") {
  Fixture fixture;
  fixture.client.keeps_bodies = false;
  const std::size_t size = 20'000'000;
  const Http2Answer answer = fixture.ask("POST", "/echo", {}, size);
  CHECK(answer.body_size == size);
  CHECK(answer.whole);
}

TEST_CASE("a request whose handler does not read holds its window and no more, and holds up nobody else") {
  Fixture fixture;
  const std::size_t size = 3'000'000;
  const std::int32_t id = fixture.client.start(Http2Client::head("POST", "/unread"), size);
  fixture.client.pump_for(200ms);
  const std::size_t sent = size - fixture.client.bodies[id];
  CHECK(sent > 0);
  CHECK(sent <= 512 << 10);
  CHECK(fixture.ask("POST", "/whole", {}, 1'000'000).body == "1000000");
  fixture.site.released = true;
  REQUIRE(fixture.client.pump([&] { return fixture.client.answers[id].closed; }));
  CHECK(fixture.client.answers[id].body == std::to_string(size));
}

TEST_CASE("a response that the client does not take is not produced") {
  Fixture fixture;
  Http2Client slow(fixture.server.port, fixture.server.files().authority, false);
  const std::int32_t id = slow.start(Http2Client::head("GET", "/flood"));
  slow.pump([&] { return slow.answers[id].body_size >= 65535; });
  slow.pump_for(200ms);
  CHECK(slow.answers[id].body_size == 65535);  // the window it began with
  CHECK(fixture.site.written <= 256 << 10);
  nghttp2_session_consume(slow.session, id, 65535);
  CHECK(slow.pump([&] { return slow.answers[id].body_size > 65535; }));
}

TEST_CASE("an announced body that is too large is refused before it comes") {
  Fixture fixture;
  const std::int32_t id =
      fixture.client.start(Http2Client::head("POST", "/whole", {{"content-length", "50000000"}}), 50'000'000);
  Http2Answer& answer = fixture.client.answers[id];
  REQUIRE(fixture.client.pump([&] { return answer.closed; }));
  CHECK(answer.status == 413);
  CHECK(answer.whole);
  CHECK(answer.error == NGHTTP2_NO_ERROR);
  CHECK(fixture.client.bodies[id] > 40'000'000);
  CHECK(fixture.ask("GET", "/hello").status == 200);
}

TEST_CASE("a client that waits to be asked for its body is asked") {
  Fixture fixture;
  fixture.client.holds_requests_back = true;
  const std::int32_t id =
      fixture.client.start(Http2Client::head("POST", "/whole", {{"expect", "100-continue"}}), 1000);
  Http2Answer& answer = fixture.client.answers[id];
  REQUIRE(fixture.client.pump([&] { return !answer.interim.empty(); }));
  CHECK(answer.interim.front() == 100);
  CHECK(answer.status == 0);
  fixture.client.holds_requests_back = false;
  nghttp2_session_resume_data(fixture.client.session, id);
  REQUIRE(fixture.client.pump([&] { return answer.closed; }));
  CHECK(answer.status == 200);
  CHECK(answer.body == "1000");
}

TEST_CASE("a request the client resets is a client gone, and the others go on") {
  Fixture fixture;
  const std::int32_t id = fixture.client.start(Http2Client::head("GET", "/wait"));
  REQUIRE(fixture.server.eventually([&] { return fixture.site.running == 1; }));
  fixture.client.reset(id);
  REQUIRE(fixture.server.eventually([&] { return fixture.site.running == 0; }));
  CHECK(fixture.site.gone == 1);
  CHECK(fixture.site.last_send_failed);
  CHECK(fixture.ask("GET", "/hello").status == 200);
}

TEST_CASE("a connection that ends is a client gone for each of its requests") {
  Fixture fixture;
  for (int i = 0; i < 3; ++i) fixture.client.start(Http2Client::head("GET", "/wait"));
  REQUIRE(fixture.server.eventually([&] { return fixture.site.running == 3; }));
  fixture.client.tls.close();
  CHECK(fixture.server.eventually([&] { return fixture.site.gone == 3 && fixture.site.running == 0; }));
  CHECK(fixture.server.eventually([&] { return fixture.server.server->connection_count() == 0; }));
}

TEST_CASE("a response that breaks off never looks complete, and the connection goes on") {
  Fixture fixture;
  const Http2Answer aborted = fixture.ask("GET", "/abort");
  CHECK_FALSE(aborted.whole);
  CHECK(aborted.error == NGHTTP2_INTERNAL_ERROR);
  CHECK(fixture.site.last_send_failed);
  const Http2Answer broken = fixture.ask("GET", "/short");
  CHECK_FALSE(broken.whole);
  CHECK(broken.error == NGHTTP2_INTERNAL_ERROR);
  CHECK(fixture.ask("GET", "/hello").status == 200);
}

TEST_CASE("a handler that throws or says nothing is answered with 500") {
  Fixture fixture;
  for (const char* path : {"/throw", "/silent"}) {
    const Http2Answer answer = fixture.ask("GET", path);
    CHECK(answer.status == 500);
    CHECK(answer.body == R"({"code":500,"message":"internal error"})");
  }
}

TEST_CASE("many requests are answered at the same time, up to the limit") {
  Limits limits;
  limits.streams = 50;
  Fixture fixture(limits);
  fixture.client.pump([&] {
    return nghttp2_session_get_remote_settings(fixture.client.session,
                                               NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) == 50;
  });
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 60; ++i) ids.push_back(fixture.client.start(Http2Client::head("GET", "/wait")));
  REQUIRE(fixture.server.eventually([&] { return fixture.site.running == 50; }));
  fixture.client.pump_for(100ms);
  CHECK(fixture.site.running == 50);  // nghttp2 keeps the other ten back
  fixture.site.released = true;
  REQUIRE(fixture.client.pump([&] {
    return std::ranges::all_of(ids, [&](std::int32_t id) { return fixture.client.answers[id].whole; });
  }));
}

TEST_CASE("heads that are too large or malformed are refused, each with its status") {
  Fixture fixture;
  // Each repetition is one byte on the wire and 3 KB for whoever unpacks it.
  Fields bomb;
  for (int i = 0; i < 60; ++i) bomb.emplace_back("x-bomb", std::string(2900, 'x'));
  CHECK(fixture.ask("GET", "/hello", bomb).status == 431);
  CHECK(fixture.ask("GET", "/hello", Fields(300, {"a", "b"})).status == 431);
  CHECK(fixture.ask("GET", "/hello", {{"bad name", "x"}}).status == 400);
  CHECK(fixture.ask("GET", "/hello", {{"connection", "x"}}).status != 200);
  CHECK(fixture.ask("GET", "/hello", {{"host", "other"}}).status == 400);
  CHECK(fixture.ask("CONNECT", "/hello").status != 200);
  CHECK(fixture.site.requests == 0);
  CHECK(fixture.ask("GET", "/hello").status == 200);
}

TEST_CASE("a body that contradicts its length is refused") {
  Fixture fixture;
  const Http2Answer answer = fixture.ask("POST", "/whole", {{"content-length", "5"}}, 1000);
  CHECK(answer.status != 200);
  CHECK(fixture.ask("GET", "/hello").status == 200);
}

TEST_CASE("a client that opens requests only to reset them is thrown out") {
  Fixture fixture;
  for (int i = 0; i < 5000 && !fixture.client.ended; ++i) {
    fixture.client.reset(fixture.client.start(Http2Client::head("GET", "/wait")));
    fixture.client.pump([] { return true; });
    if (i % 100 == 0) fixture.client.pump_for(1ms);
  }
  CHECK(fixture.client.pump([&] { return fixture.client.goaway || fixture.client.ended; }));
  CHECK(fixture.site.requests <= 1200);
  CHECK(fixture.server.eventually([&] { return fixture.site.running == 0; }));
}

TEST_CASE("handlers of requests that were reset count until they end") {
  Limits limits;
  limits.streams = 10;
  Fixture fixture(limits);
  // These do not notice that their client is gone.
  for (int i = 0; i < 100; ++i) {
    const std::int32_t id = fixture.client.start(Http2Client::head("GET", "/pieces"));
    fixture.client.pump(
        [&] { return fixture.client.answers[id].body == "one" || fixture.client.answers[id].closed; });
    fixture.client.reset(id);
  }
  CHECK(fixture.server.on_loop([&] { return fixture.site.running.load(); }) == 20);
  fixture.site.released = true;
  CHECK(fixture.server.eventually([&] { return fixture.site.running == 0; }));
}

TEST_CASE("floods of frames end the connection") {
  Site site;
  TlsServer server([&](Exchange& exchange) { return site.answer(exchange); });
  RawFrames client(server);
  SECTION("a head that never ends") {
    client.tls.send(RawFrames::frame(1, 0, 1, "\x82"));
    CHECK(client.ended_before(1000, RawFrames::frame(9, 0, 1, "")));
  }
  SECTION("a frame larger than agreed") {
    CHECK(client.ended_before(1, RawFrames::frame(0, 0, 1, std::string(20'000, 'x'))));
  }
  SECTION("nonsense") { CHECK(client.ended_before(10, std::string(100, '\xff'))); }
  CHECK(server.eventually([&] { return server.server->connection_count() == 0; }));
  CHECK(site.requests == 0);
}

TEST_CASE("a client that has its pings answered and does not read the answers is thrown out") {
  Site site;
  TlsServer server([&](Exchange& exchange) { return site.answer(exchange); });
  RawFrames client(server);
  std::string pings;
  for (int i = 0; i < 1000; ++i) pings += RawFrames::frame(6, 0, 0, "12345678");
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  bool taken = true;
  while (taken && std::chrono::steady_clock::now() < deadline) taken = client.tls.send(pings);
  CHECK_FALSE(taken);
  CHECK(server.eventually([&] { return server.server->connection_count() == 0; }));
}

TEST_CASE("a connection without requests is told goodbye after the idle time") {
  Fixture fixture(with_idle_timeout(1s));
  CHECK(fixture.ask("GET", "/hello").status == 200);
  REQUIRE(fixture.client.pump([&] { return fixture.client.ended; }));
  CHECK(fixture.client.goaway);
  CHECK(fixture.client.goaway_error == NGHTTP2_NO_ERROR);
}

TEST_CASE("a connection with a request is not idle") {
  Fixture fixture(with_idle_timeout(1s));
  const std::int32_t id = fixture.client.start(Http2Client::head("GET", "/wait"));
  fixture.client.pump_for(2500ms);
  CHECK_FALSE(fixture.client.goaway);
  fixture.site.released = true;
  REQUIRE(fixture.client.pump([&] { return fixture.client.answers[id].closed; }));
  CHECK(fixture.client.answers[id].body == "released");
}

TEST_CASE("a client that does not begin to speak is not waited for") {
  Limits limits;
  limits.head_timeout = 1s;
  Site site;
  TlsServer server([&](Exchange& exchange) { return site.answer(exchange); }, limits);
  TlsClient client(server.port, {server.files().authority, "\x02h2"});
  REQUIRE(client.connected());
  client.read_to_end();
  CHECK(server.eventually([&] { return server.server->connection_count() == 0; }));
}

TEST_CASE("a server that stops says so, and what it had begun does not look complete") {
  Fixture fixture;
  const std::int32_t id = fixture.client.start(Http2Client::head("GET", "/pieces"));
  REQUIRE(fixture.client.pump([&] { return fixture.client.answers[id].body == "one"; }));
  fixture.server.on_loop([&] { fixture.server.server->stop(); });
  REQUIRE(fixture.client.pump([&] { return fixture.client.ended; }));
  CHECK(fixture.client.goaway);
  CHECK(fixture.client.goaway_error == NGHTTP2_NO_ERROR);
  CHECK_FALSE(fixture.client.answers[id].whole);
  fixture.site.released = true;
  CHECK(fixture.server.eventually([&] { return fixture.site.running == 0; }));
}
