// What the proxy does with requests: routing, headers, bodies, answers.
#include "proxy/headers.hpp"
#include "proxy/idle_pool.hpp"
#include "proxy/target.hpp"
#include "proxy_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

proxy::Destination destination_of(std::string target, http::Headers headers) {
  return proxy::find_destination({"GET", std::move(target), std::move(headers)});
}

}  // namespace

TEST_CASE("headers name the sandbox, whatever the Host") {
  Fixture fixture;
  const std::string response = fixture.talk(request("/some%20path?a=b%2F", web, last));
  CHECK(has_status(response, 200));
  CHECK(contains(response, "X-Guest: yes"));
  CHECK(body_of(response) == "/some%20path?a=b%2F");
  CHECK(fixture.guest.last_request.headers.get("Host") == "localhost:3000");
}

TEST_CASE("the Host names the sandbox, with or without a suffix") {
  Fixture fixture;
  const std::string host = GENERATE("8080-" + id + ".cube.local", "8080-" + id + "-6532622b.x:3000");
  const std::string response = fixture.talk("GET /sandbox/x/1/ HTTP/1.1\r\nHost: " + host + "\r\n" + last);
  CHECK(body_of(response) == "/sandbox/x/1/");
  CHECK(fixture.guest.last_request.headers.get("Host") == host);
}

TEST_CASE("the path names the sandbox, and loses its prefix") {
  Fixture fixture;
  const auto [path, seen] = GENERATE(table<std::string, std::string>(
      {{"", "/"}, {"/", "/"}, {"/a/b?c=d", "/a/b?c=d"}, {"?c=d", "/?c=d"}, {"//x", "//x"}}));
  const std::string response =
      fixture.talk("GET /sandbox/" + id + "/8080" + path + " HTTP/1.1\r\nHost: localhost\r\n" + last);
  CHECK(body_of(response) == seen);
}

TEST_CASE("what names no sandbox goes to the next handler, request by request") {
  Fixture fixture;
  const std::string rest = "GET /sandboxes HTTP/1.1\r\nHost: localhost\r\n";
  const std::string response = fixture.talk(rest + "\r\n" + request("/one") + "\r\n" + rest + last);
  CHECK(contains(response, "rest /sandboxes"));
  CHECK(contains(response, "/one"));
  CHECK(fixture.guest.requests == 1);
}

TEST_CASE("a control call with a sandbox's headers, as older SDKs connect, is no request of the sandbox's") {
  const std::string path = "/sandboxes/abc/connect";
  CHECK(std::holds_alternative<std::monostate>(
      destination_of(path, {{"E2b-Sandbox-Id", "abc"}, {"E2b-Sandbox-Port", "49983"}})));
  // A server of the user's own may have such a path.
  const auto own = destination_of(path, {{"E2b-Sandbox-Id", "abc"}, {"E2b-Sandbox-Port", "8080"}});
  CHECK(std::holds_alternative<proxy::Target>(own));
}

TEST_CASE("hosts that are no sandbox's") {
  for (const std::string host : {"localhost:3000", "127.0.0.1:3000", "api.cube.local", "[::1]:3000",
                                 "my-app.local", "8080-nodot", "", "a8080-b.c", "-8080.c"}) {
    INFO(host);
    CHECK(std::holds_alternative<std::monostate>(destination_of("/", {{"Host", host}})));
  }
}

TEST_CASE("what tries to name a sandbox and fails is 400 with a text") {
  Fixture fixture;
  const auto [head, text] = GENERATE(table<std::string, std::string>({
      {"E2b-Sandbox-Id: abc", "missing header: E2b-Sandbox-Port"},
      {"E2b-Sandbox-Port: 80", "missing header: E2b-Sandbox-Id"},
      {"E2b-Sandbox-Id: ABC\r\nE2b-Sandbox-Port: 80", "Invalid sandbox ID"},
      {"E2b-Sandbox-Id: a-b-c\r\nE2b-Sandbox-Port: 80", "Invalid sandbox ID"},
      {"E2b-Sandbox-Id: ../x\r\nE2b-Sandbox-Port: 80", "Invalid sandbox ID"},
      {"E2b-Sandbox-Id:\r\nE2b-Sandbox-Port: 80", "Invalid sandbox ID"},
      {"E2b-Sandbox-Id: abc\r\nE2b-Sandbox-Port: 0", "Invalid port"},
      {"E2b-Sandbox-Id: abc\r\nE2b-Sandbox-Port: 65536", "Invalid port"},
      {"E2b-Sandbox-Id: abc\r\nE2b-Sandbox-Port: +80", "Invalid port"},
  }));
  const std::string response = fixture.talk("GET / HTTP/1.1\r\nHost: localhost\r\n" + head + "\r\n" + last);
  CHECK(has_status(response, 400));
  CHECK(body_of(response) == text + "\n");
  CHECK(std::holds_alternative<proxy::BadTarget>(destination_of("/", {{"Host", "70000-abc.local"}})));
  CHECK(std::holds_alternative<proxy::BadTarget>(destination_of("/", {{"Host", "80-a_b.local"}})));
  CHECK(std::holds_alternative<proxy::BadTarget>(destination_of("/sandbox/abc", {})));
  CHECK(std::holds_alternative<proxy::BadTarget>(destination_of("/sandbox/abc/", {})));
}

TEST_CASE("an unknown sandbox is 502 with E2B's text") {
  Fixture fixture;
  fixture.sandboxes.infos.clear();
  const std::string response = fixture.talk(request("/", web, last));
  CHECK(has_status(response, 502));
  CHECK(contains(response, "Content-Type: application/json; charset=utf-8"));
  CHECK(body_of(response) ==
        R"({"sandboxId":")" + id + R"(","message":"The sandbox was not found","code":502})");
}

TEST_CASE("a closed port is dialled five times, then 502 with E2B's text") {
  Fixture fixture;
  const std::string response = fixture.talk(request("/", closed_port, last));
  CHECK(has_status(response, 502));
  CHECK(body_of(response) ==
        R"({"sandboxId":")" + id +
            R"(","message":"The sandbox is running but port is not open","port":8081,"code":502})");
  CHECK(fixture.sandboxes.dials == 5);
}

TEST_CASE("a port that opens in the meantime is reached") {
  Fixture fixture;
  std::string received;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/late", closed_port, last));
    co_await eventually([&] { return fixture.sandboxes.dials > 0; });
    fixture.sandboxes.ports[closed_port] = fixture.guest.port;
    received = co_await client.read_to_end();
  });
  CHECK(body_of(received) == "/late");
}

TEST_CASE("a sandbox that does not answer is dialled once") {
  Fixture fixture;
  fixture.sandboxes.error = make_error(ErrorCode::deadline_exceeded, "no answer");
  const std::string response = fixture.talk(request("/", web, last));
  CHECK(has_status(response, 502));
  CHECK_FALSE(contains(response, "not found"));
  CHECK(fixture.sandboxes.dials == 1);
}

TEST_CASE("browsers get HTML") {
  Fixture fixture;
  fixture.sandboxes.infos.clear();
  const std::string response = fixture.talk(request("/", web, "User-Agent: Mozilla/5.0 (X11)\r\n" + last));
  CHECK(has_status(response, 502));
  CHECK(contains(response, "Content-Type: text/html"));
  CHECK(body_of(response).starts_with("<html"));
  CHECK(contains(response, "The sandbox was not found"));
}

TEST_CASE("envd's internal routes are not reachable, however they are spelled") {
  Fixture fixture;
  const std::string path = GENERATE(as<std::string>(), "/init", "/init?x=y", "/%69nit", "//init", "/init/",
                                    "/./init", "/x/../init", "/x/%2e%2e/freeze", "/unfreeze", "/upgrade");
  const std::string more = path == "/unfreeze" ? "Content-Length: 2\r\nConnection: close\r\n\r\n{}" : last;
  INFO(path);
  CHECK(has_status(fixture.talk(request(path, proxy::envd_tcp_port, more, "POST")), 404));
  CHECK(fixture.guest.requests == 0);
  CHECK(has_status(fixture.talk(request("/init", web, last)), 200));  // of another server in the guest
  CHECK(has_status(fixture.talk(request("/initial", proxy::envd_tcp_port, last)), 200));
}

TEST_CASE("a request's body is answered while it is still being sent") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/echo", web, chunked, "POST"));
    const std::string head = co_await client.read_until("\r\n\r\n");
    CHECK(contains(head, "Transfer-Encoding: chunked"));
    for (const std::string word : {"first", "later", "final"}) {
      co_await client.send("5\r\n" + word + "\r\n");
      const std::string piece = co_await client.read_until(word + "\r\n");
      CHECK(piece == "5\r\n" + word + "\r\n");
    }
    co_await client.send("0\r\n\r\n");
    const std::string end = co_await client.read_until("0\r\n\r\n");
    CHECK(end == "0\r\n\r\n");
  });
}

TEST_CASE("large bodies arrive whole") {
  Fixture fixture;
  const std::string body(3 << 20, 'x');
  const std::string length = "Content-Length: " + std::to_string(body.size()) + "\r\n";
  CHECK(body_of(fixture.talk(request("/body", web, length + last + body, "POST"))) ==
        std::to_string(body.size()));
  CHECK(fixture.guest.last_request.headers.get("Content-Length") == std::to_string(body.size()));
}

TEST_CASE("Expect is answered here and not passed on") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/body", web, "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", "POST"));
    const std::string interim = co_await client.read_until("\r\n\r\n");
    CHECK(contains(interim, "100 Continue"));
    co_await client.send("hello");
    const std::string response = co_await client.read_until("\r\n\r\n5");
    CHECK(contains(response, "200 OK"));
  });
  CHECK_FALSE(fixture.guest.last_request.headers.get("Expect"));
}

TEST_CASE("responses keep their framing") {
  Fixture fixture;
  CHECK(contains(fixture.talk(request("/sized", web, last)), "Content-Length: 6"));
  const std::string head = fixture.talk(request("/sized", web, last, "HEAD"));
  CHECK(contains(head, "Content-Length: 6"));
  CHECK(body_of(head).empty());
  const std::string empty = fixture.talk(request("/empty", web, last));
  CHECK(has_status(empty, 204));
  CHECK(body_of(empty).empty());
  const std::string unmodified = fixture.talk(request("/unmodified", web, last));
  CHECK(has_status(unmodified, 304));
  CHECK(contains(unmodified, "ETag: \"1\""));
}

TEST_CASE("a small answer that is here as a whole is one write, headers and all") {
  Fixture fixture;
  fixture.raw.answers = {"HTTP/1.1 200 OK\r\nX-Mine: 1\r\nContent-Length: 5\r\n\r\nwhole",
                         "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                         "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + std::string(20'000, 'x')};
  int writes = 0;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await fixture.counted_client(writes);

    co_await client.send(request("/", garbage, "\r\n"));
    const std::string small = co_await client.read_until("whole");
    CHECK(contains(small, "X-Mine: 1"));
    CHECK(contains(small, "Content-Length: 5"));
    CHECK(writes == 1);
    co_await client.send(request("/", garbage, "\r\n"));
    const std::string empty = co_await client.read_until("\r\n\r\n");
    CHECK(has_status(empty, 404));
    CHECK(contains(empty, "Content-Length: 0"));
    CHECK(writes == 2);
    co_await client.send(request("/", garbage, last));
    const std::string large = co_await client.read_to_end();
    CHECK(body_of(large) == std::string(20'000, 'x'));
  });
}

TEST_CASE(
    "a request of announced length goes into the sandbox once its body has begun, in one piece with it") {
  Fixture fixture;
  std::string response;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    RawClient other = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/body", web, "Content-Length: 4\r\nConnection: close\r\n\r\n", "POST"));
    co_await other.send(request("/", web, last));
    co_await other.read_to_end();
    CHECK(fixture.guest.requests == 1);
    co_await client.send("body");
    response = co_await client.read_to_end();
  });
  CHECK(body_of(response) == "4");
  CHECK(fixture.guest.requests == 2);
}

TEST_CASE("a request's body that comes too slowly is answered with 408") {
  http::Limits limits;
  limits.body_timeout = 1s;
  Fixture fixture({}, limits);
  const std::string sent = GENERATE("", "1", "12345");
  const std::string response =
      fixture.talk(request("/body", web, "Content-Length: 6\r\n\r\n", "POST") + sent);
  CHECK(has_status(response, 408));
  CHECK(contains(response, "Connection: close"));
  CHECK(body_of(response) == R"({"code":408,"message":"the body did not arrive in time"})");
}

TEST_CASE("headers of one connection stay on it") {
  Fixture fixture;
  fixture.talk(
      request("/", web,
              "Connection: close, X-Mine, host, content-length\r\nX-Mine: 1\r\nX-Other: 2\r\n"
              "Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\r\n"));
  const http::Headers& seen = fixture.guest.last_request.headers;
  for (const char* name : {"Connection", "X-Mine", "Keep-Alive", "TE", "Proxy-Authorization", "Upgrade"})
    CHECK_FALSE(seen.get(name));
  CHECK(seen.get("X-Other") == "2");
  CHECK(seen.get("Host") == "localhost:3000");
}

TEST_CASE("the guest learns at once that the client left") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/wait", web, "\r\n"));
    const std::string start = co_await client.read_until("start");
    CHECK(contains(start, "200 OK"));
    client.close();
    co_await eventually([&] { return fixture.guest.client_left; });
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
}

TEST_CASE("the guest learns that the client left within its body") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/wait", web, chunked + "5\r\nhel", "POST"));
    const std::string start = co_await client.read_until("start");
    client.close();
    co_await eventually([&] { return fixture.guest.client_left; });
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
}

TEST_CASE("a response the guest breaks off does not look complete") {
  Fixture fixture;
  SECTION("without a body under way") {
    const std::string response = fixture.talk(request("/truncated", web, "\r\n"));
    CHECK(contains(response, "part"));
    CHECK_FALSE(contains(response, "\r\n0\r\n"));
  }
  SECTION("while the client still sends") {
    const std::string response = fixture.talk(request("/truncated", web, chunked, "POST"));
    CHECK(contains(response, "part"));
    CHECK_FALSE(contains(response, "\r\n0\r\n"));
  }
  SECTION("because the sandbox was killed") {
    std::string received;
    run(fixture.loop, [&]() -> asio::awaitable<void> {
      RawClient client = co_await RawClient::connect(fixture.port);
      co_await client.send(request("/wait", web, "\r\n"));
      const std::string start = co_await client.read_until("start");
      fixture.sandboxes.infos.clear();
      fixture.guest.server.stop();
      received = co_await client.read_to_end();
    });
    CHECK_FALSE(contains(received, "0\r\n"));
    CHECK(contains(fixture.talk(request("/health", web, last)), "The sandbox was not found"));
  }
}

TEST_CASE("a guest that answers before it has read the body is heard") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/early", web, chunked, "POST"));
    const std::string response = co_await client.read_until("too much");
    CHECK(has_status(response, 413));
    client.close();
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
}

TEST_CASE("garbage from a guest is 502 for that request only") {
  Fixture fixture;
  fixture.raw.answers = {
      GENERATE(as<std::string>(), "nonsense\r\n\r\n", "HTTP/1.1 999 What\r\n\r\n",
               "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
               "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
               "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "")};
  const std::string response = fixture.talk(request("/", garbage, "\r\n") + request("/fine", web, last));
  CHECK(has_status(response, 502));
  CHECK(contains(response, "without a valid HTTP response"));
  CHECK(contains(response, "/fine"));
}

TEST_CASE("a malformed body of the client's is the client's fault") {
  Fixture fixture;
  const std::string response = fixture.talk(request("/body", web, chunked + "zz\r\n", "POST"));
  CHECK(has_status(response, 400));
}

TEST_CASE("answers that end with the connection are passed on whole") {
  Fixture fixture;
  fixture.raw.answers = {"HTTP/1.0 200 OK\r\nServer: SimpleHTTP\r\n\r\nall of it"};
  const std::string response = fixture.talk(request("/", garbage, last));
  CHECK(contains(response, "9\r\nall of it\r\n0\r\n\r\n"));
}

TEST_CASE("interim answers are not taken for the answer") {
  Fixture fixture;
  fixture.raw.answers = {
      "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"};
  const std::string response = fixture.talk(request("/", garbage, last));
  CHECK(has_status(response, 200));
  CHECK(body_of(response) == "ok");
}

TEST_CASE("connections into the guest are used again") {
  Fixture fixture;
  fixture.talk(request("/one", web, last));
  const std::string first = fixture.guest.last_remote;
  fixture.talk(request("/two", web, "Content-Length: 3\r\n" + last + "abc", "POST"));
  CHECK(fixture.guest.last_remote == first);
  CHECK(fixture.sandboxes.dials == 1);
}

TEST_CASE("a connection that waits is not used once its sandbox is gone") {
  Fixture fixture;
  fixture.talk(request("/one", web, last));
  fixture.sandboxes.infos.clear();
  CHECK(contains(fixture.talk(request("/two", web, last)), "The sandbox was not found"));
  CHECK(fixture.guest.requests == 1);
}

TEST_CASE("a connection that waits is not used once its sandbox has another machine") {
  Fixture fixture;
  const auto post = [&] {
    return fixture.talk(request("/", web, "Content-Length: 3\r\n" + last + "abc", "POST"));
  };
  CHECK(has_status(post(), 200));
  ++fixture.sandboxes.infos.front()
        .incarnation;  // a rollback; the old machine's end has not been noticed yet
  CHECK(has_status(post(), 200));
  CHECK(fixture.sandboxes.dials == 2);
  CHECK(has_status(post(), 200));
  CHECK(fixture.sandboxes.dials == 2);
}

TEST_CASE("a request without a body is sent again when a waiting connection turns out dead") {
  Fixture fixture;
  // The second request on a connection gets nothing but its end.
  fixture.raw.answers = {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", ""};
  CHECK(has_status(fixture.talk(request("/", garbage, last)), 200));
  CHECK(has_status(fixture.talk(request("/", garbage, last)), 200));
  CHECK(fixture.raw.connections == 2);
  const std::string length = "Content-Length: 3\r\n";
  CHECK(has_status(fixture.talk(request("/", garbage, length + last + "abc", "POST")), 502));
  CHECK(fixture.raw.connections == 2);
}

TEST_CASE("a switch of protocols joins both sides raw") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(
        request("/upgrade", web, "Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"));
    const std::string head = co_await client.read_until("\r\n\r\n");
    CHECK(contains(head, "101 Switching Protocols"));
    CHECK(contains(head, "Upgrade: echo"));
    co_await client.send("\x81hello");
    const std::string echoed = co_await client.read_until("hello");
    CHECK(echoed == "\x81hello");

    SECTION("until the client leaves") {
      client.close();
      co_await eventually([&] { return fixture.guest.client_left; });
    }
    SECTION("until the guest leaves") {
      co_await client.send("bye");
      const std::string rest = co_await client.read_to_end();
      CHECK(rest.empty());
    }
    client.close();
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
}

TEST_CASE("envd is not asked to switch protocols") {
  Fixture fixture;
  const std::string response = fixture.talk(
      request("/upgrade2", proxy::envd_tcp_port, "Connection: close, Upgrade\r\nUpgrade: echo\r\n\r\n"));
  CHECK(has_status(response, 200));
  CHECK_FALSE(fixture.guest.last_request.headers.get("Upgrade"));
}

TEST_CASE("the pool holds few connections a port, and few altogether") {
  asio::io_context loop;
  const auto pool = std::make_shared<proxy::IdlePool>(loop.get_executor());
  const auto connection = [&] {
    return http::ClientConnection(http::make_tcp_stream(asio::ip::tcp::socket(loop)));
  };
  for (int i = 0; i < 100; ++i) pool->put(id, 0, web, connection());
  CHECK(pool->size() == proxy::IdlePool::most_per_port);
  for (int i = 0; i < 3000; ++i) pool->put(id, 0, static_cast<std::uint16_t>(i + 1), connection());
  CHECK(pool->size() == proxy::IdlePool::most);
  CHECK_FALSE(pool->take(id, 0, 1000));  // the longest idle went
  CHECK(pool->take(id, 0, 3000));
  CHECK_FALSE(pool->take(id, 0, 3000));
  CHECK_FALSE(pool->take("other", 0, 2999));
  CHECK_FALSE(pool->take(id, 1, 2999));  // of another machine
  CHECK(pool->size() == 0);
  pool->put(id, 1, web, connection());
  pool->put("other", 0, web, connection());
  pool->drop(id);
  CHECK(pool->size() == 1);
}
