// The HTTP server and client over real sockets: the server is driven by raw bytes and by ClientConnection.
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <catch2/catch.hpp>
#include <cube/http.hpp>

#include "event_loop.hpp"
#include "http/body.hpp"
#include "http/event.hpp"
#include "http/head.hpp"
#include "http/text.hpp"
#include "packets.hpp"
#include "replies.hpp"

using namespace cube;
using namespace cube::http;
using namespace cube::test;
using namespace std::chrono_literals;

namespace {

// A function, because g++ 12 breaks over initializer lists of strings inside a co_await expression. It also
// runs a co_await in the dead branch of an assertion macro, so those stay outside too.
RequestHead ask(std::string method, std::string target, std::string name = {}, std::string value = {}) {
  RequestHead head{std::move(method), std::move(target), {}};
  if (!name.empty()) head.headers.add(std::move(name), std::move(value));
  return head;
}

/// What most tests talk to: a few paths, each showing one behaviour.
asio::awaitable<void> answer(Exchange& exchange) {
  const std::string path(exchange.request().path());
  if (path == "/hello") {
    co_await exchange.respond(reply(200, "X-Name", "hello"), "hello");
  } else if (path == "/length") {
    auto body = co_await exchange.read_whole_body(1 << 20);
    if (body.ok())
      co_await exchange.respond(reply(200), std::to_string(body->size()));
    else
      co_await exchange.respond(reply(body.error().code == ErrorCode::resource_exhausted ? 413 : 400),
                                "refused");
  } else if (path == "/echo") {
    co_await echo(exchange);
  } else if (path == "/stream") {
    must(co_await exchange.begin(reply(200)));
    must(co_await exchange.write(asio::buffer("one", 3)));
    must(co_await exchange.write(asio::buffer("", 0)));
    must(co_await exchange.write(asio::buffer("two", 3)));
    must(co_await exchange.finish());
  } else if (path == "/sized") {
    must(co_await exchange.begin(reply(200, "Content-Length", "6")));
    must(co_await exchange.write(asio::buffer("one", 3)));
    must(co_await exchange.write(asio::buffer("two", 3)));
    auto more = co_await exchange.write(asio::buffer("!", 1));
    if (more.ok()) throw TestError("a body may exceed its length");
    must(co_await exchange.finish());
  } else if (path == "/truncated") {
    must(co_await exchange.begin(reply(200)));
    must(co_await exchange.write(asio::buffer("part", 4)));
  } else if (path == "/short") {
    must(co_await exchange.begin(reply(200, "Content-Length", "10")));
    must(co_await exchange.write(asio::buffer("part", 4)));
    co_await exchange.finish();
  } else if (path == "/empty") {
    co_await exchange.respond(reply(204), "");
  } else if (path == "/throw") {
    throw TestError("on purpose");
  } else if (path == "/injection") {
    auto sent = co_await exchange.respond(reply(200, "X-Evil", "a\r\nSet-Cookie: b"), "");
    co_await exchange.respond(reply(sent.ok() ? 200 : 418), "");
  } else if (path == "/silent") {
    co_return;
  } else {
    co_await exchange.respond(reply(404), "nothing here");
  }
}

struct Fixture {
  explicit Fixture(Handler handler = answer, Limits limits = {})
      : server(loop.get_executor(), std::move(handler), limits) {
    port = must(server.listen("127.0.0.1", 0));
  }

  /// Sends `text`, ends the client's side unless told otherwise, and gives back all that comes.
  std::string talk(std::string text, bool half_close = true) {
    std::string received;
    run(loop, [&]() -> asio::awaitable<void> {
      RawClient client = co_await RawClient::connect(port);
      co_await client.send(text);
      if (half_close) client.half_close();
      received = co_await client.read_to_end();
    });
    return received;
  }

  asio::awaitable<ClientConnection> connect() {
    auto stream = co_await connect_tcp("127.0.0.1", port, 10s);
    co_return ClientConnection(must(std::move(stream)));
  }

  asio::io_context loop;
  Server server;
  std::uint16_t port = 0;
};

int status_of(const std::string& response) {
  return response.starts_with("HTTP/1.1 ") ? std::stoi(response.substr(9, 3)) : 0;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

const std::string host = " HTTP/1.1\r\nHost: x\r\n";

std::string read_body_in_two(const std::string& text, std::size_t split, Framing framing,
                             std::size_t& consumed) {
  BodyReader reader(framing);
  std::string body;
  consumed = 0;
  for (std::string_view input :
       {std::string_view(text).substr(0, split), std::string_view(text).substr(split)}) {
    char output[3];
    for (;;) {
      const auto step = reader.read(input, asio::buffer(output));
      body.append(output, step.produced);
      input.remove_prefix(step.consumed);
      consumed += step.consumed;
      if (step.consumed == 0) break;
    }
  }
  return reader.complete() ? body : "incomplete";
}

}  // namespace

TEST_CASE("a small request and response carry what was asked and end the connection when told so") {
  Fixture fixture;
  const std::string response = fixture.talk("GET /hello" + host + "Connection: close\r\n\r\n");
  CHECK(response ==
        "HTTP/1.1 200 OK\r\nX-Name: hello\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
}

TEST_CASE("one connection carries many different requests") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    for (int round = 0; round < 20; ++round) {
      Response response = must(co_await request(client, ask("GET", "/hello"), "", 100));
      CHECK(response.status == 200);
      CHECK(response.body == "hello");
      CHECK(response.headers.get("x-name") == "hello");
      response = must(co_await request(client, ask("POST", "/length"), std::string(100'000, 'x'), 100));
      CHECK(response.body == "100000");
      response = must(co_await request(client, ask("GET", "/stream"), "", 100));
      CHECK(response.body == "onetwo");
      response = must(co_await request(client, ask("GET", "/sized"), "", 100));
      CHECK(response.body == "onetwo");
      response = must(co_await request(client, ask("HEAD", "/hello"), "", 100));
      CHECK(response.headers.get("content-length") == "5");
      CHECK(response.body.empty());
      response = must(co_await request(client, ask("HEAD", "/stream"), "", 100));
      CHECK(response.body.empty());
      response = must(co_await request(client, ask("DELETE", "/empty"), "", 100));
      CHECK(response.status == 204);
      CHECK_FALSE(response.headers.get("content-length"));
      response = must(co_await request(client, ask("GET", "/missing"), "", 100));
      CHECK(response.status == 404);
      CHECK(client.reusable());
      CHECK(fixture.server.connection_count() == 1);
    }
  });
}

TEST_CASE("HTTP/1.0 gets a stream until the connection closes, and keep-alive only if it asks") {
  Fixture fixture;
  std::string response = fixture.talk("GET /stream HTTP/1.0\r\n\r\n", false);
  CHECK_FALSE(contains(response, "chunked"));
  CHECK(contains(response, "Connection: close\r\n"));
  CHECK(response.ends_with("\r\n\r\nonetwo"));
  response =
      fixture.talk("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /hello HTTP/1.0\r\n\r\n", false);
  CHECK(contains(response, "Connection: keep-alive\r\n\r\nhelloHTTP/1.1 200 OK"));
  CHECK(response.ends_with("Connection: close\r\n\r\nhello"));
}

TEST_CASE("pipelined requests are answered in order") {
  Fixture fixture;
  std::string requests;
  for (int i = 0; i < 50; ++i)
    requests +=
        "POST /length" + host + "Content-Length: " + std::to_string(i) + "\r\n\r\n" + std::string(i, 'x');
  requests += "GET /missing" + host + "\r\n";
  std::string rest = fixture.talk(requests);
  for (int i = 0; i < 50; ++i) {
    const std::string body = std::to_string(i);
    const std::string expected =
        "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    REQUIRE(rest.substr(0, expected.size()) == expected);
    rest.erase(0, expected.size());
  }
  CHECK(status_of(rest) == 404);
}

TEST_CASE("the first piece goes out with the head and the last one with the end, in one write each") {
  const auto in_pieces = [](Exchange& exchange) -> asio::awaitable<void> {
    ResponseHead head = reply(200);
    if (exchange.request().path() == "/sized") head.headers.add("Content-Length", "11");
    must(co_await exchange.begin(std::move(head), asio::buffer("first", 5)));
    must(co_await exchange.write(asio::buffer("-", 1)));
    must(co_await exchange.finish(asio::buffer("last!", 5)));
    must(co_await exchange.finish());
  };
  Fixture fixture(in_pieces);
  std::vector<std::string> packets;
  const auto ask_for = [&](std::string path) -> asio::awaitable<void> {
    auto [ours, theirs] = make_packet_pair(fixture.loop);
    fixture.server.serve(std::move(theirs), "test");
    const std::string request = "GET " + path + host + "\r\n";
    must(co_await ours->write(asio::buffer(request)));
    for (int i = 0; i < 3; ++i) {
      std::string packet = co_await read_packet(*ours);
      packets.push_back(std::move(packet));
    }
  };
  SECTION("in chunks") {
    run(fixture.loop, [&] { return ask_for("/"); });
    CHECK(packets[0] == "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    CHECK(packets[1] == "1\r\n-\r\n");
    CHECK(packets[2] == "5\r\nlast!\r\n0\r\n\r\n");
  }
  SECTION("of a length") {
    run(fixture.loop, [&] { return ask_for("/sized"); });
    CHECK(packets[0] == "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst");
    CHECK(packets[1] == "-");
    CHECK(packets[2] == "last!");
  }
}

TEST_CASE("a body that comes too slowly is given up, but a stream may rest") {
  Limits limits;
  limits.body_timeout = 1s;
  const auto read = [](Exchange& exchange) -> asio::awaitable<void> {
    Result<std::size_t> count = std::size_t{1};
    char piece[100];
    if (exchange.request().path() == "/whole") {
      const auto body = co_await exchange.read_whole_body(1000);
      if (!body.ok()) count = body.error();
    } else {
      while (count.ok() && *count > 0) count = co_await exchange.read_body(asio::buffer(piece));
    }
    const bool slow = !count.ok() && count.error().code == ErrorCode::deadline_exceeded;
    co_await exchange.respond(reply(slow ? 408 : 200), "");
  };
  Fixture fixture(read, limits);
  std::string response;
  const auto send_slowly = [&](std::string head, std::string piece, int pieces,
                               std::chrono::milliseconds rest, std::string end) -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send("POST " + head + "\r\n");
    asio::steady_timer timer(fixture.loop);
    for (int i = 0; i < pieces; ++i) {
      co_await client.send(piece);
      timer.expires_after(rest);
      co_await timer.async_wait(asio::use_awaitable);
    }
    co_await client.send(end);
    response = co_await client.read_to_end();
  };
  SECTION("it rests") {
    run(fixture.loop, [&] { return send_slowly("/" + host + "Content-Length: 9\r\n", "123", 1, 1ms, "4"); });
    CHECK(status_of(response) == 408);
    CHECK(contains(response, "Connection: close"));
  }
  SECTION("it trickles") {
    run(fixture.loop, [&] { return send_slowly("/" + host + "Content-Length: 99\r\n", "1", 15, 100ms, ""); });
    CHECK(status_of(response) == 408);
  }
  SECTION("it is wanted whole") {
    run(fixture.loop, [&] {
      return send_slowly("/whole" + host + "Transfer-Encoding: chunked\r\n", "1\r\na\r\n", 1, 1ms, "");
    });
    CHECK(status_of(response) == 408);
  }
  SECTION("it is a stream") {
    run(fixture.loop, [&] {
      return send_slowly("/" + host + "Transfer-Encoding: chunked\r\nConnection: close\r\n", "1\r\na\r\n", 1,
                         1500ms, "0\r\n\r\n");
    });
    CHECK(status_of(response) == 200);
  }
}

TEST_CASE("a chunked echo runs both ways at once, and every piece goes out at once") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    must(co_await client.begin(ask("POST", "/echo", "Transfer-Encoding", "chunked")));
    const ResponseHead head = must(co_await client.read_head());
    CHECK(head.status == 200);
    for (const std::size_t size : {1u, 10u, 4096u, 100'000u}) {
      // Nothing more is sent until this piece has come back whole.
      const std::string piece(size, static_cast<char>('a' + size % 26));
      must(co_await client.write(asio::buffer(piece)));
      std::string back(size, '\0');
      for (std::size_t used = 0; used < size;)
        used += must(co_await client.read_body(asio::buffer(back.data() + used, size - used)));
      CHECK(back == piece);
    }
    must(co_await client.finish());
    const auto ended = must(co_await client.read_whole_body(10)).empty();
    CHECK(ended);
    CHECK(client.reusable());
  });
}

TEST_CASE("a big body streams through while both sides write") {
  Fixture fixture;
  constexpr std::size_t total = 64 << 20;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    const std::string piece(1 << 20, 'p');
    must(co_await client.begin(ask("PUT", "/echo", "Content-Length", std::to_string(total))));
    bool written = false;
    const auto write_all = [&]() -> asio::awaitable<void> {
      for (std::size_t sent = 0; sent < total; sent += piece.size())
        must(co_await client.write(asio::buffer(piece)));
      must(co_await client.finish());
      written = true;
    };
    asio::co_spawn(fixture.loop, write_all(), asio::detached);
    must(co_await client.read_head());
    std::vector<char> buffer(64 << 10);
    std::size_t received = 0;
    for (;;) {
      const std::size_t count = must(co_await client.read_body(asio::buffer(buffer)));
      if (count == 0) break;
      received += count;
    }
    CHECK(received == total);
    CHECK(written);
  });
}

TEST_CASE("100-continue is answered when the body is first read, and not for a body that is refused") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send("POST /length" + host + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    const std::string interim = co_await client.read_until("\r\n\r\n");
    CHECK(interim == "HTTP/1.1 100 Continue\r\n\r\n");
    co_await client.send("abc");
    const std::string response = co_await client.read_until("\r\n\r\n3");
    CHECK(status_of(response) == 200);

    co_await client.send("POST /length" + host + "Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n");
    const std::string refused = co_await client.read_to_end();
    CHECK(status_of(refused) == 413);
    CHECK(contains(refused, "Connection: close\r\n"));
  });
}

TEST_CASE("what cannot be one request for sure is refused with a JSON error and the end of the connection") {
  Fixture fixture;
  Limits limits;
  const auto refused = [&](const std::string& text, int status) {
    INFO(text.substr(0, 200));
    const std::string response = fixture.talk(text + "GET /hello" + host + "\r\n");
    CHECK(status_of(response) == status);
    CHECK(contains(response, "Connection: close\r\n"));
    CHECK(contains(response, "Content-Type: application/json\r\n"));
    CHECK(contains(response, "\r\n\r\n{\"code\":" + std::to_string(status) + ",\"message\":\""));
    CHECK_FALSE(contains(response, "hello"));
  };
  refused("GET /hello" + host + "X-Long: " + std::string(limits.head_bytes, 'x') + "\r\n\r\n", 431);
  std::string many;
  for (std::size_t i = 0; i <= limits.header_count; ++i) many += "a: b\r\n";
  refused("GET /hello" + host + many + "\r\n", 431);
  refused("POST /hello" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
  refused("POST /hello" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400);
  refused("POST /hello" + host + "Content-Length: +5\r\n\r\nhello", 400);
  refused("POST /hello" + host + "Content-Length: 5, 5\r\n\r\nhello", 400);
  refused("POST /hello" + host + "Content-Length : 5\r\n\r\nhello", 400);
  refused("POST /hello" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
          400);
  refused("POST /hello" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501);
  refused("GET /hello" + host + "Host: y\r\n\r\n", 400);
  refused("GET /hello HTTP/1.1\r\n\r\n", 400);
  refused("GET /hello" + host + "a: b\r\n c: d\r\n\r\n", 400);
  refused("GET /hello HTTP/1.1\nHost: x\n\n", 400);
  refused("GET /hello HTTP/2.0\r\nHost: x\r\n\r\n", 505);
  refused("GET  /hello HTTP/1.1\r\nHost: x\r\n\r\n", 400);
  refused(std::string("GET /hello") + host + "a: b" + '\0' + "\r\n\r\n", 400);
  refused("nonsense\r\n\r\n", 400);
}

TEST_CASE("a malformed chunked body is an error to its reader and ends the connection") {
  Fixture fixture;
  for (const char* body : {"g\r\n", "5\r\nhelloXX0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "\r\n0\r\n\r\n",
                           "fffffffffffffffff\r\n", "5\nhello\r\n0\r\n\r\n"}) {
    INFO(body);
    const std::string response = fixture.talk("POST /length" + host + "Transfer-Encoding: chunked\r\n\r\n" +
                                              body + "GET /hello" + host + "\r\n");
    CHECK(status_of(response) == 400);
    CHECK(response.ends_with("refused"));
    CHECK(contains(response, "Connection: close\r\n"));
  }
}

TEST_CASE("an unread body is skipped when it is small and ends the connection when it is not") {
  Fixture fixture;
  const auto post = [](std::size_t size) {
    return "POST /hello" + host + "Content-Length: " + std::to_string(size) + "\r\n\r\n" +
           std::string(size, 'x');
  };
  const std::string both = fixture.talk(post(200'000) + "GET /missing" + host + "\r\n");
  CHECK(status_of(both) == 200);
  CHECK(contains(both, "HTTP/1.1 404 Not Found\r\n"));

  const std::string one = fixture.talk(post(1'000'000) + "GET /missing" + host + "\r\n");
  CHECK(status_of(one) == 200);
  CHECK(contains(one, "Connection: close\r\n"));
  CHECK(one.ends_with("\r\n\r\nhello"));

  const std::string chunk = "10000\r\n" + std::string(0x10000, 'x') + "\r\n";
  std::string endless = "POST /hello" + host + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 8; ++i) endless += chunk;
  CHECK(fixture.talk(endless + "0\r\n\r\nGET /missing" + host + "\r\n").ends_with("\r\n\r\nhello"));
}

TEST_CASE("a handler hears that its client went while it waits for something else") {
  bool gone = false;
  std::shared_ptr<Event> waiting;
  Fixture fixture([&](Exchange& exchange) -> asio::awaitable<void> {
    Event event(exchange.executor());
    exchange.on_client_gone([&] {
      gone = true;
      event.notify();
    });
    must(co_await exchange.begin(reply(200)));
    while (!gone) co_await event.wait();
    waiting->notify();
  });
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    waiting = std::make_shared<Event>(fixture.loop.get_executor());
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send("GET /" + host + "\r\n");
    co_await client.read_until("\r\n\r\n");
    CHECK_FALSE(gone);
    client.close();
    co_await waiting->wait();
    CHECK(gone);
    waiting.reset();  // before the loop goes
  });
}

TEST_CASE("the going of a client after its response is nobody's concern any more") {
  bool gone = false;
  Fixture fixture([&](Exchange& exchange) -> asio::awaitable<void> {
    exchange.on_client_gone([&] { gone = true; });
    co_await exchange.respond(reply(200), "");
  });
  fixture.talk("GET /" + host + "Connection: close\r\n\r\n", false);
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    Event moment(fixture.loop.get_executor());
    while (fixture.server.connection_count() > 0)
      co_await moment.wait_until(std::chrono::steady_clock::now() + 1ms);
  });
  CHECK_FALSE(gone);
}

TEST_CASE("connections over the limit are told 503 and closed, and the others go on") {
  Limits limits;
  limits.connections = 2;
  Fixture fixture(answer, limits);
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection first = co_await fixture.connect();
    const auto answered = must(co_await request(first, ask("GET", "/hello"), "", 10));
    CHECK(answered.status == 200);
    ClientConnection second = co_await fixture.connect();
    const auto also_answered = must(co_await request(second, ask("GET", "/hello"), "", 10));
    CHECK(also_answered.status == 200);
    ClientConnection third = co_await fixture.connect();
    const Response refused = must(co_await request(third, ask("GET", "/hello"), "", 1000));
    CHECK(refused.status == 503);
    CHECK(contains(refused.body, "\"code\":503"));
    CHECK_FALSE(third.reusable());
    const auto still_answered = must(co_await request(first, ask("GET", "/hello"), "", 10));
    CHECK(still_answered.status == 200);
    // Their places become free.
    first.close();
    third.close();
    Event moment(fixture.loop.get_executor());
    while (fixture.server.connection_count() > 1)
      co_await moment.wait_until(std::chrono::steady_clock::now() + 1ms);
    ClientConnection fourth = co_await fixture.connect();
    const auto new_answered = must(co_await request(fourth, ask("GET", "/hello"), "", 10));
    CHECK(new_answered.status == 200);
  });
}

TEST_CASE("a handler that throws or gives no response is answered for with 500, and the connection goes on") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    for (const char* path : {"/throw", "/silent"}) {
      const Response response = must(co_await request(client, ask("GET", path), "", 1000));
      CHECK(response.status == 500);
      CHECK(contains(response.body, "\"code\":500"));
      CHECK_FALSE(contains(response.body, "on purpose"));
    }
    const auto injection = must(co_await request(client, ask("GET", "/injection"), "", 10));
    CHECK(injection.status == 418);
  });
}

TEST_CASE("a response that was cut off is an error to the client, never a short body") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    for (const char* path : {"/truncated", "/short"}) {
      ClientConnection client = co_await fixture.connect();
      const auto response = co_await request(client, ask("GET", path), "", 1000);
      REQUIRE_FALSE(response.ok());
      CHECK(Result(response).error().code == ErrorCode::unavailable);
      CHECK_FALSE(client.reusable());
    }
  });
}

TEST_CASE("an upgraded connection carries raw bytes both ways, those sent early included") {
  Fixture fixture([](Exchange& exchange) -> asio::awaitable<void> {
    auto stream = must(co_await exchange.upgrade(reply(101, "Upgrade", "echo")));
    char buffer[100];
    for (;;) {
      auto count = co_await stream->read_some(asio::buffer(buffer));
      if (!count.ok() || *count == 0) break;
      must(co_await stream->write(asio::buffer(buffer, *count)));
    }
    must(co_await stream->write(asio::buffer("bye", 3)));
  });
  const std::string response =
      fixture.talk("GET /" + host + "Upgrade: echo\r\nConnection: upgrade\r\n\r\nearly");
  CHECK(response == "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\nearlybye");

  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    must(co_await client.begin(ask("GET", "/", "Upgrade", "echo")));
    const auto switched = must(co_await client.read_head());
    CHECK(switched.status == 101);
    CHECK_FALSE(client.reusable());
    const std::unique_ptr<Stream> stream = client.release();
    must(co_await stream->write(asio::buffer("raw", 3)));
    char buffer[3];
    std::size_t used = 0;
    while (used < 3) used += must(co_await stream->read_some(asio::buffer(buffer + used, 3 - used)));
    CHECK(std::string(buffer, 3) == "raw");
  });
}

TEST_CASE("a head that trickles in is timed out with 408, an idle connection silently") {
  Limits limits;
  limits.head_timeout = 1s;
  limits.idle_timeout = 1s;
  Fixture fixture(answer, limits);
  CHECK(status_of(fixture.talk("GET /hello", false)) == 408);
  CHECK(fixture.talk("", false).empty());
  CHECK(fixture.talk("GET /hello" + host + "\r\n", false).ends_with("\r\n\r\nhello"));
}

TEST_CASE("stopping ends handlers by failing their I/O, also when the server is destroyed under them") {
  asio::io_context loop;
  Event entered(loop.get_executor());
  bool returned = false;
  auto server =
      std::make_unique<Server>(loop.get_executor(), [&](Exchange& exchange) -> asio::awaitable<void> {
        char buffer[10];
        must(co_await exchange.begin(reply(200)));
        entered.notify();
        const auto count = co_await exchange.read_body(asio::buffer(buffer));
        CHECK_FALSE(count.ok());
        returned = true;
        entered.notify();
      });
  const std::uint16_t port = must(server->listen("localhost", 0));
  run(loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(port);
    co_await client.send("POST /" + host + "Content-Length: 5\r\n\r\n");
    co_await entered.wait();
    server.reset();
    co_await client.read_to_end();
    while (!returned) co_await entered.wait();
    auto refused = co_await connect_tcp("127.0.0.1", port, 10s);
    CHECK_FALSE(refused.ok());
  });
}

TEST_CASE("a loop destroyed with requests under way leaks and breaks nothing") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send("POST /echo" + host + "Content-Length: 5\r\n\r\n12");
    co_await client.read_until("12");
  });
}

TEST_CASE("a taken port is reported with its address, a name is not an address") {
  Fixture fixture;
  Server second(fixture.loop.get_executor(), answer);
  const auto taken = second.listen("127.0.0.1", fixture.port);
  REQUIRE_FALSE(taken.ok());
  CHECK(Result(taken).error().code == ErrorCode::already_exists);
  CHECK(contains(Result(taken).error().describe(), "127.0.0.1:" + std::to_string(fixture.port)));
  const auto name = second.listen("example.org", 0);
  REQUIRE_FALSE(name.ok());
  CHECK(Result(name).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("the client refuses to send what would break out of its line or is not due") {
  Fixture fixture;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    ClientConnection client = co_await fixture.connect();
    for (const char* target : {"", "/a b", "/a\r\nX: y"}) {
      const auto sent = co_await client.begin(ask("GET", target));
      CHECK_FALSE(sent.ok());
    }
    const auto header = co_await client.begin(ask("GET", "/", "X", "a\r\nY: b"));
    CHECK_FALSE(header.ok());
    const auto early = co_await client.read_head();
    CHECK_FALSE(early.ok());
    must(co_await client.begin(ask("GET", "/hello")));
    const auto twice = co_await client.begin(ask("GET", "/hello"));
    CHECK_FALSE(twice.ok());
    must(co_await client.read_head());
    CHECK_FALSE(client.reusable());
    const auto large = co_await client.read_whole_body(4);
    REQUIRE_FALSE(large.ok());
    CHECK(Result(large).error().code == ErrorCode::resource_exhausted);
    const auto body = must(co_await client.read_whole_body(5));
    CHECK(body == "hello");
    CHECK(client.reusable());
  });
}

TEST_CASE("a body is the same wherever the network cuts it") {
  const std::string chunked =
      "5;name=\"v\"\r\nhello\r\n00a\r\n, world ok\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n";
  const std::string text = chunked + "GET /next";
  std::size_t consumed = 0;
  for (std::size_t split = 0; split <= text.size(); ++split) {
    INFO(split);
    CHECK(read_body_in_two(text, split, {Framing::Kind::chunked, 0}, consumed) == "hello, world ok!");
    CHECK(consumed == chunked.size());
    CHECK(read_body_in_two(text, split, {Framing::Kind::length, 7}, consumed) == "5;name=");
    CHECK(consumed == 7);
  }
  BodyReader open({Framing::Kind::until_end, 0});
  BodyReader cut({Framing::Kind::length, 1});
  CHECK(open.end_of_stream());
  CHECK_FALSE(cut.end_of_stream());
}

TEST_CASE("a head is the same wherever the network cuts it") {
  const std::string head = "\r\nGET /x HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n";
  const std::string text = head + "body";
  for (std::size_t split = 0; split <= text.size(); ++split) {
    HeadCollector collector(1000);
    std::size_t first = 0, second = 0;
    auto state = collector.feed(std::string_view(text).substr(0, split), first);
    if (state == HeadCollector::State::more)
      state = collector.feed(std::string_view(text).substr(first), second);
    REQUIRE(state == HeadCollector::State::complete);
    CHECK(first + second == head.size());
    CHECK(std::holds_alternative<ParsedRequest>(parse_request_head(collector.text(), {})));
  }
}

TEST_CASE("what a field value may hold does not depend on where in it, or how long it is") {
  for (std::size_t size = 1; size <= 20; ++size)
    for (std::size_t at = 0; at < size; ++at)
      for (int byte = 0; byte < 256; ++byte) {
        std::string text(size, at % 2 == 0 ? 'a' : '\xe4');
        text[at] = static_cast<char>(byte);
        const bool allowed = byte == '\t' || (byte >= 0x20 && byte != 0x7f);
        if (is_field_value(text) != allowed) FAIL(size << " bytes, the one at " << at << " is " << byte);
      }
  CHECK(is_field_value(""));
}

TEST_CASE("header fields keep their order, and stay what they are when they are copied, moved and changed") {
  const auto text_of = [](const Headers& headers) {
    std::string text;
    for (const auto& [name, value] : headers.fields())
      text.append(name).append("=").append(value).append(" ");
    return text;
  };
  auto parsed = parse_request_head("GET / HTTP/1.1\r\nHost: x\r\nA:\t1 \r\nB:\r\na: 3\r\n\r\n", {});
  Headers headers = std::get<ParsedRequest>(std::move(parsed)).head.headers;
  CHECK(text_of(headers) == "Host=x A=1 B= a=3 ");
  CHECK(headers.get("a") == "1");
  CHECK(headers.get("b") == "");
  CHECK_FALSE(headers.get("c"));

  Headers copy = headers;
  headers.add("C", "4");
  headers.set("A", "5");
  copy.remove_if([](std::string_view name) { return name.size() > 1; });
  CHECK(text_of(headers) == "Host=x B= C=4 A=5 ");
  CHECK(text_of(copy) == "A=1 B= a=3 ");
  const Headers moved = std::move(headers);
  CHECK(text_of(moved) == "Host=x B= C=4 A=5 ");
  CHECK(text_of({{"X", "1"}, {"Y", ""}}) == "X=1 Y= ");

  CHECK(check_headers(copy).ok());
  copy.add("D", "6\r\nE: 7");
  CHECK_FALSE(check_headers(copy).ok());
}

TEST_CASE("escapes are decoded, malformed ones and NUL bytes are nothing") {
  CHECK(percent_decode("%2Ftmp%2fa+b%20c") == "/tmp/a+b c");
  for (const char* bad : {"%", "%2", "%zz", "a%00b", "%-1"}) CHECK_FALSE(percent_decode(bad));
  CHECK(query_parameter("a=1&path=%2Ftmp%2Fa+b&path=2", "path") == "/tmp/a b");
  CHECK(query_parameter("a&b=", "a") == "");
  CHECK_FALSE(query_parameter("a=1", "b"));
  CHECK_FALSE(query_parameter("a=%zz", "a"));
}
