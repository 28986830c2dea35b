// Large bodies, which the kernel moves through the proxy from socket to socket.
#include <csignal>

#include "proxy_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

// As in the daemon: a client that goes is an error.
[[maybe_unused]] const auto handler_before = std::signal(SIGPIPE, SIG_IGN);

std::string large_text() {
  std::string text(5'000'017, '\0');
  std::uint32_t state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

std::string response_of(const std::string& body, std::size_t announced) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(announced) + "\r\n\r\n" + body;
}

}  // namespace

TEST_CASE("a large body arrives as it is, hardly any of it written by the proxy itself") {
  Fixture fixture;
  const std::string text = large_text();
  fixture.raw.answers = {response_of(text, text.size()), response_of("next", 4)};
  int writes = 0;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await fixture.counted_client(writes);
    co_await client.send(request("/", garbage, "\r\n"));
    co_await client.read_until("\r\n\r\n");
    const std::string received = co_await client.read_until(text.substr(text.size() - 16));
    CHECK(received == text);
    CHECK(writes < 5);
    co_await client.send(request("/", garbage, last));
    const std::string next = co_await client.read_to_end();
    CHECK(body_of(next) == "next");
  });
  CHECK(fixture.raw.connections == 1);
}

TEST_CASE("a large body that the guest breaks off does not look complete, wherever it is") {
  Fixture fixture;
  const std::string text = large_text();
  const std::size_t sent = GENERATE(1'000, 1 << 20, 4'999'999);
  fixture.raw.answers = {response_of(text.substr(0, sent), text.size())};
  const std::string response = fixture.talk(request("/", garbage, "\r\n"));
  CHECK(contains(response, "Content-Length: " + std::to_string(text.size())));
  CHECK(body_of(response) == text.substr(0, sent));
}

TEST_CASE("a large body has an end behind which its sender may say nothing") {
  Fixture fixture;
  const std::string text = large_text();
  fixture.raw.answers = {response_of(text + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore", text.size())};
  std::string first, next;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/", garbage, "\r\n"));
    co_await client.read_until("\r\n\r\n");
    first = co_await client.read_until(text.substr(text.size() - 16));
    co_await client.send(request("/sandbox/none", web, last));
    next = co_await client.read_to_end();
  });
  CHECK(first == text);
  CHECK(body_of(next) == "/sandbox/none");
}

TEST_CASE(
    "a client that leaves within a large body is gone for the guest, too, whether it rests or goes on") {
  Fixture fixture;
  const std::string begun = response_of(large_text(), std::size_t{1} << 40);
  const bool rests = GENERATE(true, false);
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    asio::ip::tcp::acceptor acceptor(fixture.loop, {asio::ip::make_address("127.0.0.1"), 0});
    fixture.sandboxes.ports[web] = acceptor.local_endpoint().port();
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send(request("/", web, "\r\n"));
    auto socket = co_await acceptor.async_accept(asio::use_awaitable);
    const auto guest = http::make_tcp_stream(std::move(socket));
    asio::co_spawn(
        fixture.loop,
        [](RawClient& reader) -> asio::awaitable<void> {
          co_await reader.read_until("\r\n\r\n");
          reader.close();
        }(client),
        asio::detached);
    auto written = co_await guest->write(asio::buffer(begun));
    while (!rests && written.ok()) written = co_await guest->write(asio::buffer(begun));
    char request_bytes[1000];
    auto count = co_await guest->read_some(asio::buffer(request_bytes));
    while (count.ok() && *count > 0) count = co_await guest->read_some(asio::buffer(request_bytes));
  });
}

TEST_CASE("who is slow to read a large body holds up nobody else, and gets all of it") {
  Fixture fixture;
  const std::string text = large_text();
  fixture.raw.answers = {response_of(text, text.size())};
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient slow = co_await RawClient::connect(fixture.port);
    co_await slow.send(request("/", garbage, last));
    co_await slow.read_until("\r\n\r\n");
    for (int i = 0; i < 10; ++i) {
      RawClient other = co_await RawClient::connect(fixture.port);
      co_await other.send(request("/", web, last));
      const std::string answer = co_await other.read_to_end();
      CHECK(has_status(answer, 200));
    }
    const std::string received = co_await slow.read_to_end();
    CHECK(received == text);
  });
}
