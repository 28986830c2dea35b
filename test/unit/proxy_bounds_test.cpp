// What hostile clients and hostile guests can do to others: nothing.
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "proxy_fixture.hpp"

using namespace cube;
using namespace cube::test;
using std::chrono::steady_clock;

namespace {

const std::string other_id = "ibbbbbbbbbbbbbbbbbbbb";

double ms_since(steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
}

http::Limits limits_with(std::chrono::seconds head_timeout, std::size_t connections = 4096) {
  http::Limits limits;
  limits.head_timeout = head_timeout;
  limits.connections = connections;
  return limits;
}

/// A guest's server that sends `first` and then `more` again and again, as long as anybody takes it.
struct EndlessGuest {
  EndlessGuest(asio::io_context& loop, std::string head, std::string piece,
               std::chrono::milliseconds time = {})
      : first(std::move(head)),
        more(std::move(piece)),
        pause(time),
        acceptor(loop, {asio::ip::make_address("127.0.0.1"), 0}) {
    asio::co_spawn(loop, serve(), asio::detached);
  }
  std::uint16_t port() const { return acceptor.local_endpoint().port(); }

  asio::awaitable<void> serve() {
    asio::error_code error;
    asio::ip::tcp::socket socket(acceptor.get_executor());
    co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    const auto stream = http::make_tcp_stream(std::move(socket));
    asio::steady_timer timer(acceptor.get_executor());
    auto sent = co_await stream->write(asio::buffer(first));
    while (sent.ok()) {
      sent = co_await stream->write(asio::buffer(more));
      bytes += more.size();
      if (pause.count() == 0) continue;
      timer.expires_after(pause);
      co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
    }
    ended = true;
  }

  std::string first, more;
  std::chrono::milliseconds pause;
  asio::ip::tcp::acceptor acceptor;
  std::size_t bytes = 0;
  bool ended = false;
};

/// Resident memory of this process.
std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// As many descriptors as there may be; at least `wanted` if that can be.
std::size_t raise_descriptor_limit(std::size_t wanted) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  rlimit raised{std::max<rlim_t>(limit.rlim_max, wanted), std::max<rlim_t>(limit.rlim_max, wanted)};
  if (::setrlimit(RLIMIT_NOFILE, &raised) != 0) {
    raised = {limit.rlim_max, limit.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &raised);
  }
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

asio::awaitable<void> throw_away(Stream& stream) {
  std::vector<char> buffer(64 << 10);
  for (;;) {
    const auto count = co_await stream.read_some(asio::buffer(buffer));
    if (!count.ok() || *count == 0) co_return;
  }
}

bool serves_others(Fixture& fixture) { return has_status(fixture.talk(request("/fine", web, last)), 200); }

}  // namespace

TEST_CASE("heads that trickle in are given up, and nobody waits for them") {
  Fixture fixture({}, limits_with(1s));
  std::string answer;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    std::vector<RawClient> slow;
    for (int i = 0; i < 50; ++i) {
      slow.push_back(co_await RawClient::connect(fixture.port));
      co_await slow.back().send("GET / HTTP/1.1\r\nHo");
    }
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/fine", web, last));
    const std::string response = co_await client.read_to_end();
    CHECK(has_status(response, 200));
    for (RawClient& each : slow) {
      answer = co_await each.read_to_end();
      CHECK(has_status(answer, 408));
    }
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
  CHECK(fixture.guest.requests == 1);
}

TEST_CASE("heads that are too large or have too many fields are 431") {
  Fixture fixture;
  std::string many;
  for (int i = 0; i < 200; ++i) many += "X-" + std::to_string(i) + ": y\r\n";
  CHECK(has_status(fixture.talk(request("/", web, "X: " + std::string(80 << 10, 'y') + "\r\n" + last)), 431));
  CHECK(has_status(fixture.talk(request("/", web, many + last)), 431));
  CHECK(has_status(fixture.talk("GET /" + std::string(80 << 10, 'y') + " HTTP/1.1\r\n" + last), 431));
  CHECK(fixture.guest.requests == 0);
  CHECK(serves_others(fixture));
}

TEST_CASE("a sandbox has as many requests on their way as it may, others are not concerned") {
  proxy::Settings settings;
  settings.connections_per_sandbox = 3;
  Fixture fixture(settings);
  fixture.sandboxes.infos.push_back(MemorySandboxes::make(other_id));
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    // Two that wait for their answers, and one whose body comes slowly.
    std::vector<RawClient> busy;
    const std::string waiting = request("/wait", web, "\r\n");
    const std::string slow_body = request("/body", web, chunked + "1\r\nx\r\n", "POST");
    for (int i = 0; i < 3; ++i) {
      busy.push_back(co_await RawClient::connect(fixture.port));
      co_await busy.back().send(i < 2 ? waiting : slow_body);
    }
    co_await eventually([&] { return fixture.guest.requests == 3; });

    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/", web, "\r\n"));
    const std::string refused = co_await client.read_until("}");
    CHECK(has_status(refused, 429));
    CHECK(contains(refused, "Retry-After: 1"));
    CHECK(contains(refused, R"({"sandboxId":")" + id + R"(","message":"The sandbox has 3 connections)"));

    co_await client.send("GET /other HTTP/1.1\r\nHost: 8080-" + other_id + ".cube.local\r\n\r\n");
    const std::string served = co_await client.read_until("/other");
    CHECK(has_status(served, 200));

    busy.front().close();
    co_await eventually([&] { return fixture.guest.client_left; });
    co_await eventually([&] { return fixture.server.connection_count() == 3; });
    co_await client.send(request("/again", web, last));
    const std::string again = co_await client.read_to_end();
    CHECK(has_status(again, 200));
  });
}

TEST_CASE("whatever a guest answers concerns that request only") {
  const auto [answer, status] = GENERATE(table<std::string, int>({
      {"HTTP/1.1 200 OK\r\nX: " + std::string(80 << 10, 'y') + "\r\n\r\n", 502},
      {"HTTP/1.1 200 OK\r\n" + std::string(80 << 10, 'y'), 502},
      {std::string(1 << 20, '\0'), 502},
      {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502},
      {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", 502},
      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 502},
  }));
  Fixture fixture;
  fixture.raw.answers = {answer};
  const std::string response = fixture.talk(request("/", garbage, last));
  INFO(answer.substr(0, 100));
  CHECK(has_status(response, status));
  CHECK(contains(response, "without a valid HTTP response"));
  CHECK(serves_others(fixture));
}

TEST_CASE("a body that is shorter than announced is broken off, bytes beyond it are nobody's") {
  Fixture fixture;
  SECTION("shorter, with a length") {
    fixture.raw.answers = {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!"};
    const std::string response = fixture.talk(request("/", garbage, "\r\n"));
    CHECK(body_of(response) == "five!");  // of 10, and then the connection's end
    CHECK(contains(response, "Content-Length: 10"));
  }
  SECTION("chunks that are none") {
    fixture.raw.answers = {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\nzz\r\n"};
    const std::string response = fixture.talk(request("/", garbage, "\r\n"));
    CHECK(contains(response, "five!"));
    CHECK_FALSE(contains(response, "0\r\n\r\n"));
  }
  SECTION("longer") {
    const std::string twice =
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    fixture.raw.answers = {twice, twice};
    const std::string response = fixture.talk(request("/", garbage, "\r\n") + request("/", garbage, last));
    CHECK(contains(response, "one"));
    CHECK_FALSE(contains(response, "forged"));
    CHECK(fixture.raw.connections == 2);
  }
  CHECK(serves_others(fixture));
}

TEST_CASE("a guest whose head trickles is given up") {
  proxy::Settings settings;
  settings.guest_limits.head_timeout = 1s;
  Fixture fixture(settings);
  EndlessGuest guest(fixture.loop, "HTTP/1.1 200 OK\r\nX: ", "y", 20ms);
  fixture.sandboxes.ports[garbage] = guest.port();
  CHECK(has_status(fixture.talk(request("/", garbage, last)), 502));
  run(fixture.loop, [&]() -> asio::awaitable<void> { co_await eventually([&] { return guest.ended; }); });
}

TEST_CASE("an answer without end fills no memory, and ends with its client") {
  Fixture fixture;
  EndlessGuest guest(fixture.loop, "HTTP/1.1 200 OK\r\n\r\n", std::string(64 << 10, 'x'));
  fixture.sandboxes.ports[garbage] = guest.port();
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/", garbage, "\r\n"));
    const std::string head = co_await client.read_until("\r\n\r\n");
    CHECK(has_status(head, 200));
    // It goes on until every socket's buffers are full.
    std::size_t before = 0;
    asio::steady_timer timer(fixture.loop);
    do {
      before = guest.bytes;
      timer.expires_after(100ms);
      co_await timer.async_wait(asio::use_awaitable);
    } while (guest.bytes != before);
    CHECK(guest.bytes < (64u << 20));
    client.close();
    co_await eventually([&] { return guest.ended; });
    co_await eventually([&] { return fixture.server.connection_count() == 0; });
  });
  CHECK(serves_others(fixture));
}

TEST_CASE("an answer that is read as fast as it comes leaves others their turn") {
  Fixture fixture;
  EndlessGuest guest(fixture.loop, "HTTP/1.1 200 OK\r\n\r\n", std::string(64 << 10, 'x'));
  fixture.sandboxes.ports[garbage] = guest.port();
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    auto connected = co_await http::connect_tcp("127.0.0.1", fixture.port, 10s);
    const std::unique_ptr<Stream> greedy = must(std::move(connected));
    const std::string ask = request("/", garbage, "\r\n");
    auto sent = co_await greedy->write(asio::buffer(ask));
    must(std::move(sent));
    bool reading = true;
    asio::co_spawn(fixture.loop, throw_away(*greedy), [&](std::exception_ptr) { reading = false; });
    co_await eventually([&] { return guest.bytes > (4u << 20); });
    double longest = 0;
    for (int i = 0; i < 20; ++i) {
      const auto start = steady_clock::now();
      RawClient client = co_await RawClient::connect(fixture.port);
      co_await client.send(request("/fine", web, last));
      const std::string response = co_await client.read_to_end();
      CHECK(has_status(response, 200));
      longest = std::max(longest, ms_since(start));
    }
    CHECK(reading);
    CHECK(longest < 1000);
    greedy->close();
    co_await eventually([&] { return !reading; });
  });
}

TEST_CASE("a client's end reaches the guest within milliseconds") {
  Fixture fixture;
  std::vector<double> times;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 20; ++i) {
      fixture.guest.client_left = false;
      RawClient client = co_await RawClient::connect(fixture.port);
      co_await client.send(request("/wait", web, "\r\n"));
      const std::string start = co_await client.read_until("start");
      const auto left = steady_clock::now();
      client.close();
      co_await eventually([&] { return fixture.guest.client_left; });
      times.push_back(ms_since(left));
    }
  });
  std::ranges::sort(times);
  WARN("a client's end took " << times[times.size() / 2] << " ms to the guest (median), " << times.back()
                              << " ms at most");
  CHECK(times[times.size() / 2] < 100);
}

TEST_CASE("a killed sandbox's streams end at once, and what comes next is 502") {
  Fixture fixture;
  double last_end = 0;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    std::vector<RawClient> clients;
    for (int i = 0; i < 100; ++i) {
      clients.push_back(co_await RawClient::connect(fixture.port));
      co_await clients.back().send(request("/wait", web, "\r\n"));
    }
    for (RawClient& client : clients) {
      const std::string start = co_await client.read_until("start");
      CHECK(has_status(start, 200));
    }
    const auto killed = steady_clock::now();
    auto gone = co_await fixture.sandboxes.kill(id);
    CHECK(gone.ok());
    fixture.guest.server.stop();  // as the machine's end closes its vsock connections
    for (RawClient& client : clients) {
      const std::string rest = co_await client.read_to_end();
      CHECK_FALSE(contains(rest, "0\r\n\r\n"));
    }
    last_end = ms_since(killed);
  });
  WARN("100 streams of a killed sandbox ended within " << last_end << " ms");
  CHECK(last_end < 1000);
  const std::string next = fixture.talk(request("/health", proxy::envd_tcp_port, last));
  CHECK(has_status(next, 502));
  CHECK(contains(next, "The sandbox was not found"));
}

TEST_CASE("10,000 idle connections cost little memory and nobody's time") {
  ::mallopt(M_PERTURB, 0);  // Meson asks for it; it touches buffers that are only reserved
  constexpr std::size_t wanted = 10'000;
  const std::size_t descriptors = raise_descriptor_limit(2 * wanted + 200);
  const std::size_t count = std::min(wanted, (descriptors - 200) / 2);
  Fixture fixture({}, limits_with(30s, 2 * wanted));
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    std::vector<RawClient> clients;
    clients.reserve(count);
    const std::size_t before = resident_bytes();
    for (std::size_t i = 0; i < count; ++i) clients.push_back(co_await RawClient::connect(fixture.port));
    co_await eventually([&] { return fixture.server.connection_count() == count; });
    const std::size_t fresh = resident_bytes();
    for (RawClient& client : clients) {
      co_await client.send(request("/used", web, "\r\n"));
      const std::string response = co_await client.read_until("/used");
      if (!has_status(response, 200)) throw TestError(response);
    }
    const std::size_t used = resident_bytes();
    const auto start = steady_clock::now();
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/fine", web, last));
    const std::string response = co_await client.read_to_end();
    CHECK(has_status(response, 200));
    const double ms = ms_since(start);
    WARN(count << " connections: " << (fresh - before) / count << " bytes each before a request, "
               << (used - before) / count
               << " after one (both with the test's client); one more request took " << ms << " ms");
    CHECK((used - before) / count < 64u << 10);
    CHECK(ms < 1000);
  });
  CHECK(fixture.sandboxes.dials == 1);  // one after the other, they share a connection into the guest
}
