// virtio-vsock against a guest that speaks on real rings.
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/steady_timer.hpp>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <thread>

#include "vmm/virtio/vsock_connection.hpp"
#include "vsock_driver.hpp"

using namespace cube;
using namespace cube::vmm::virtio;
using namespace cube::vmm::virtio::test;
using namespace std::chrono_literals;
using vsock::Connection;
using vsock::Header;
using vsock::Op;

namespace {

constexpr std::uint32_t agent_port = 49983;

template <class T>
using Outcome = std::shared_ptr<std::optional<Result<T>>>;

template <class T>
asio::awaitable<void> keep(asio::awaitable<Result<T>> operation, Outcome<T> outcome) {
  outcome->emplace(co_await std::move(operation));
}

std::string pattern(std::size_t length) {
  std::string text(length, '\0');
  std::uint32_t x = 12345;
  for (char& c : text) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  return text;
}

/// A loop, a guest on it, and the host's side of the test.
struct Fixture {
  explicit Fixture(bool event_index = true) : guest(loop, event_index) {}
  ~Fixture() { poll(); }

  void poll() {
    loop.restart();
    loop.poll();
  }

  /// For what a timer brings; fails the test if it never comes.
  void run_until(const std::function<bool()>& done) {
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (!done()) {
      REQUIRE(std::chrono::steady_clock::now() < limit);
      loop.restart();
      loop.run_one_for(100ms);
    }
  }

  template <class T>
  Outcome<T> spawn(asio::awaitable<Result<T>> operation) {
    auto outcome = std::make_shared<std::optional<Result<T>>>();
    asio::co_spawn(loop, keep(std::move(operation), outcome), asio::detached);
    poll();
    return outcome;
  }

  void start(std::size_t receive_buffers = DriverQueue::chains, std::uint32_t bytes = 4096) {
    guest.start(receive_buffers, bytes);
    guest.device->resume();
    poll();
  }

  Packet expect(Op op) {
    auto packet = guest.receive();
    REQUIRE(packet.has_value());
    CHECK(packet->header.source_cid == 2);
    CHECK(packet->header.destination_cid == guest_cid);
    CHECK(packet->header.type == 1);
    REQUIRE(packet->header.op == op);
    CHECK(packet->header.length == packet->payload.size());
    return std::move(*packet);
  }

  void send(Header header, std::string_view payload = {}) {
    REQUIRE(guest.send(header, payload));
    poll();
  }
  void send(Op op, std::string_view payload = {}) { send(VsockGuest::header(op, agent_port, port), payload); }

  /// Connects and accepts.
  std::unique_ptr<Stream> connect(std::uint32_t credit = 1u << 20) {
    const auto outcome = spawn(guest.device->connect(agent_port, 5s));
    const Packet request = expect(Op::request);
    CHECK(request.header.destination_port == agent_port);
    CHECK(request.header.buffer_size == 256u << 10);
    port = request.header.source_port;
    Header response = VsockGuest::header(Op::response, agent_port, port);
    response.buffer_size = credit;
    send(response);
    REQUIRE(outcome->has_value());
    REQUIRE((*outcome)->ok());
    return std::move((*outcome)->value());
  }

  Outcome<std::size_t> read(Stream& stream, std::string& into) {
    return spawn(stream.read_some(asio::buffer(into)));
  }
  Outcome<void> write(Stream& stream, std::string_view bytes) {
    return spawn(stream.write(asio::buffer(bytes)));
  }

  /// Everything the guest has received as data by now.
  std::string received_data() {
    std::string all;
    while (auto packet = guest.receive()) {
      poll();
      if (packet->header.op == Op::data) all += packet->payload;
    }
    return all;
  }

  asio::io_context loop;
  VsockGuest guest;
  std::uint32_t port = 0;  ///< the host's end of the last connect
};

template <class T>
ErrorCode code_of(const Outcome<T>& outcome) {
  REQUIRE(outcome->has_value());
  REQUIRE_FALSE((*outcome)->ok());
  return (*outcome)->error().code;
}

std::size_t size_of(const Outcome<std::size_t>& outcome) {
  REQUIRE(outcome->has_value());
  REQUIRE((*outcome)->ok());
  return (*outcome)->value();
}

bool succeeded(const Outcome<void>& outcome) { return outcome->has_value() && (*outcome)->ok(); }

}  // namespace

// --- Connecting ---

TEST_CASE("the configuration space holds the guest's CID") {
  Fixture f;
  std::uint64_t cid = 0;
  f.guest.device->read(0x100, std::as_writable_bytes(std::span(&cid, 1)));
  CHECK(cid == guest_cid);
}

TEST_CASE("bytes travel both ways over a connection the guest accepts") {
  const bool event_index = GENERATE(true, false);
  Fixture f(event_index);
  f.start();
  const auto stream = f.connect();

  REQUIRE(succeeded(f.write(*stream, "hello guest")));
  CHECK(f.expect(Op::data).payload == "hello guest");

  std::string buffer(64, '\0');
  const auto waiting = f.read(*stream, buffer);
  CHECK_FALSE(waiting->has_value());
  f.send(Op::data, "hello host");
  CHECK(buffer.substr(0, size_of(waiting)) == "hello host");

  f.send(Op::data, "buffered");
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "buffered");
}

TEST_CASE("when the guest was last sent something is known, whatever it says itself") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  CHECK(f.guest.device->last_data() == std::chrono::steady_clock::time_point());
  const auto before = std::chrono::steady_clock::now();
  REQUIRE(succeeded(f.write(*stream, "ping")));
  const auto sent = f.guest.device->last_data();
  CHECK(sent >= before);
  CHECK(sent <= std::chrono::steady_clock::now());
  f.send(Op::data, "pong");
  f.send(Op::credit_request);
  CHECK(f.guest.device->last_data() == sent);
}

TEST_CASE("a small write costs no turn of the loop and one interrupt") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  const std::size_t before = f.guest.interrupts;
  REQUIRE(succeeded(f.write(*stream, "ping")));
  CHECK(f.guest.interrupts == before + 1);
}

TEST_CASE("a guest that does not listen refuses") {
  Fixture f;
  f.start();
  const auto outcome = f.spawn(f.guest.device->connect(7, 5s));
  const Packet request = f.expect(Op::request);
  f.send(VsockGuest::header(Op::reset, 7, request.header.source_port));
  CHECK(code_of(outcome) == ErrorCode::unavailable);
  CHECK((*outcome)->error().message == "connection refused by the guest");
}

TEST_CASE("a guest that does not answer is given up and told so") {
  Fixture f;
  f.start();
  const auto outcome = f.spawn(f.guest.device->connect(7, 20ms));
  const Packet request = f.expect(Op::request);
  f.run_until([&] { return outcome->has_value(); });
  CHECK(code_of(outcome) == ErrorCode::deadline_exceeded);
  CHECK(f.expect(Op::reset).header.source_port == request.header.source_port);
  // A late answer belongs to nothing.
  f.send(VsockGuest::header(Op::response, 7, request.header.source_port));
  f.expect(Op::reset);
}

TEST_CASE("a connect before the driver is ready waits for it, through its first reset") {
  Fixture f;
  f.guest.device->resume();
  const auto outcome = f.spawn(f.guest.device->connect(agent_port, 5s));
  f.guest.start();
  f.poll();
  const Packet request = f.expect(Op::request);
  f.send(VsockGuest::header(Op::response, agent_port, request.header.source_port));
  REQUIRE(outcome->has_value());
  CHECK((*outcome)->ok());
}

TEST_CASE("a connect to a paused machine waits for its time limit and leaves nothing behind") {
  Fixture f;
  f.start();
  f.guest.device->quiesce();
  const auto outcome = f.spawn(f.guest.device->connect(agent_port, 20ms));
  f.run_until([&] { return outcome->has_value(); });
  CHECK(code_of(outcome) == ErrorCode::deadline_exceeded);
  f.guest.device->resume();
  f.poll();
  CHECK_FALSE(f.guest.receive().has_value());
}

TEST_CASE("what the guest starts is refused") {
  Fixture f;
  f.start();
  f.send(VsockGuest::header(Op::request, 1234, 80));
  const Packet answer = f.expect(Op::reset);
  CHECK(answer.header.source_port == 80);
  CHECK(answer.header.destination_port == 1234);
  Header seqpacket = VsockGuest::header(Op::request, 1234, 80);
  seqpacket.type = 2;
  REQUIRE(f.guest.send(seqpacket));
  f.poll();
  const auto refused = f.guest.receive();
  REQUIRE(refused.has_value());
  CHECK(refused->header.op == Op::reset);
  CHECK(refused->header.type == 2);
}

// --- Volume and credit ---

TEST_CASE("a large write fills as many receive buffers as it needs") {
  const std::uint32_t buffer_bytes = GENERATE(45u, 64u, 3776u, 68u << 10);
  Fixture f;
  f.start(4, buffer_bytes);
  const auto stream = f.connect();
  const std::string sent = pattern(buffer_bytes == 45 ? 1000 : 300'000);
  const auto written = f.write(*stream, sent);
  CHECK_FALSE(written->has_value());  // four buffers do not hold it
  const std::string got = f.received_data();
  CHECK(got == sent);
  CHECK(succeeded(written));
}

TEST_CASE("a write waits for credit, asks for it, and goes on when it comes") {
  Fixture f;
  f.start();
  const auto stream = f.connect(1000);
  const std::string sent = pattern(2500);
  const auto written = f.write(*stream, sent);
  std::string got = f.expect(Op::data).payload;
  CHECK(got.size() == 1000);
  f.expect(Op::credit_request);
  CHECK_FALSE(f.guest.receive().has_value());

  for (std::uint32_t forwarded = 1000; forwarded < 2500; forwarded += 1000) {
    CHECK_FALSE(written->has_value());
    Header update = VsockGuest::header(Op::credit_update, agent_port, f.port);
    update.buffer_size = 1000;
    update.forwarded_count = forwarded;
    f.send(update);
    got += f.received_data();
  }
  CHECK(succeeded(written));
  CHECK(got == sent);
}

TEST_CASE("a guest that lies about its credit gains nothing") {
  Fixture f;
  f.start();
  const auto stream = f.connect(1000);
  const auto written = f.write(*stream, pattern(5000));
  CHECK(f.expect(Op::data).payload.size() == 1000);
  f.expect(Op::credit_request);
  for (const std::uint32_t forwarded : {1001u, 0x80000000u, 0xffffffffu}) {  // more than was sent
    Header update = VsockGuest::header(Op::credit_update, agent_port, f.port);
    update.buffer_size = 1000;
    update.forwarded_count = forwarded;
    f.send(update);
    CHECK_FALSE(f.guest.receive().has_value());
  }
  Header shrunk = VsockGuest::header(Op::credit_update, agent_port, f.port);
  shrunk.buffer_size = 10;  // less than is on the way
  f.send(shrunk);
  CHECK_FALSE(f.guest.receive().has_value());
  CHECK_FALSE(written->has_value());
}

TEST_CASE("the guest hears of read space at every quarter, and when it asks") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  std::string buffer(32u << 10, '\0');
  const std::string data = pattern(64u << 10);
  f.send(Op::data, data);
  CHECK(size_of(f.read(*stream, buffer)) == buffer.size());
  CHECK_FALSE(f.guest.receive().has_value());
  CHECK(size_of(f.read(*stream, buffer)) == buffer.size());
  CHECK(f.expect(Op::credit_update).header.forwarded_count == 64u << 10);
  f.send(Op::credit_request);
  f.expect(Op::credit_update);
}

TEST_CASE("more data than there is credit for resets the connection") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  const std::string data = pattern(64u << 10);
  for (int i = 0; i < 4; ++i) f.send(Op::data, data);
  CHECK_FALSE(f.guest.receive().has_value());
  f.send(Op::data, "x");
  f.expect(Op::reset);
  std::string buffer(256u << 10, '\0');
  CHECK(size_of(f.read(*stream, buffer)) == buffer.size());  // what was within the rules is there
  CHECK(code_of(f.read(*stream, buffer)) == ErrorCode::unavailable);
}

TEST_CASE("byte counts go on past 2^32 in both directions") {
  Connection connection(1u << 30, agent_port);
  std::span<const std::byte> payload;
  connection.next_packet(100, payload);
  Header header = VsockGuest::header(Op::response, agent_port, 1u << 30);
  header.buffer_size = 128u << 10;
  connection.receive(header, {}, 0);

  std::vector<std::byte> block(64u << 10);
  std::uint32_t sent = 0;
  std::uint64_t total = 0;
  header.op = Op::credit_update;
  while (total < (1ull << 32) + 1'000'000) {
    connection.begin_write(block);
    while (connection.wants_to_send()) {
      const Header packet = connection.next_packet(block.size(), payload);
      if (packet.op != Op::data) continue;
      sent += packet.length;
      total += packet.length;
    }
    REQUIRE(connection.write_result().has_value());
    connection.end_write();
    header.forwarded_count = sent;
    connection.receive(header, {}, 0);
  }
  // Nothing acknowledged any more: exactly the guest's buffer is left, across the wrap as well.
  std::uint32_t on_the_way = 0;
  std::vector<std::byte> large(1u << 20);
  connection.begin_write(large);
  while (connection.wants_to_send()) {
    const Header packet = connection.next_packet(block.size(), payload);
    on_the_way += packet.length;
  }
  CHECK(on_the_way == 128u << 10);

  total = 0;
  std::uint32_t advertised = 0;
  header.op = Op::data;
  header.length = 64u << 10;
  const std::vector<iovec> buffers = {{block.data(), block.size()}};
  std::vector<std::byte> into(64u << 10);
  while (total < (1ull << 32) + 1'000'000) {
    REQUIRE(static_cast<std::uint32_t>(total) - advertised + header.length <= Connection::buffer_size);
    connection.receive(header, buffers, 0);
    connection.begin_read(into);
    const auto result = connection.read_result();
    REQUIRE(result.has_value());
    REQUIRE(result->ok());
    total += **result;
    connection.end_read();
    while (connection.wants_to_send()) advertised = connection.next_packet(0, payload).forwarded_count;
  }
  CHECK(connection.state() == Connection::State::established);
}

TEST_CASE("connections share the receive ring packet by packet") {
  Fixture f;
  f.start(2);
  const auto first = f.connect();
  const auto second = f.connect();
  const std::string a(40'000, 'a'), b(40'000, 'b');
  const auto writing_a = f.write(*first, a);
  const auto writing_b = f.write(*second, b);
  int longest_run = 0, run = 0;
  char last = 0;
  while (const auto packet = f.guest.receive()) {
    f.poll();
    if (packet->header.op != Op::data || packet->payload.empty()) continue;
    run = packet->payload[0] == last ? run + 1 : 1;
    last = packet->payload[0];
    longest_run = std::max(longest_run, run);
  }
  CHECK(succeeded(writing_a));
  CHECK(succeeded(writing_b));
  CHECK(longest_run <= 3);  // the two buffers the first took while it was alone
}

TEST_CASE("a header may be spread over descriptors") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  Header header = VsockGuest::header(Op::data, agent_port, f.port);
  header.length = 5;
  std::string buffer(16, '\0');
  for (const std::size_t first : {1u, 43u, 44u, 46u, 0u}) {
    REQUIRE(f.guest.send_exactly(header, "12345", first));
    f.poll();
    REQUIRE(buffer.substr(0, size_of(f.read(*stream, buffer))) == "12345");
  }
}

// --- Hostile packets ---

TEST_CASE("a packet that lies about its length resets its connection") {
  const std::uint32_t length = GENERATE(6u, 64u << 10, (64u << 10) + 1, 0xffffffffu, 0xffffffd4u);
  Fixture f;
  f.start();
  const auto stream = f.connect();
  Header header = VsockGuest::header(Op::data, agent_port, f.port);
  header.length = length;
  REQUIRE(f.guest.send_exactly(header, "12345"));
  f.poll();
  f.expect(Op::reset);
  std::string buffer(16, '\0');
  CHECK(code_of(f.read(*stream, buffer)) == ErrorCode::unavailable);
  CHECK_FALSE(f.guest.failure.has_value());
}

TEST_CASE("packets with foreign addresses or without a whole header are dropped") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  Header foreign = VsockGuest::header(Op::reset, agent_port, f.port);
  foreign.source_cid = 4;
  f.send(foreign);
  foreign = VsockGuest::header(Op::reset, agent_port, f.port);
  foreign.destination_cid = 1;
  f.send(foreign);
  REQUIRE(f.guest.send_raw(std::string(43, '\x03'), 0));
  f.poll();
  CHECK_FALSE(f.guest.receive().has_value());
  CHECK(succeeded(f.write(*stream, "alive")));
}

TEST_CASE("an operation out of place resets the connection") {
  const std::uint16_t op = GENERATE(0, 1, 2, 8, 0xffff);
  Fixture f;
  f.start();
  const auto stream = f.connect();
  f.send(Op{op});
  f.expect(Op::reset);
  CHECK(code_of(f.write(*stream, "x")) == ErrorCode::unavailable);
}

TEST_CASE("data before the guest has accepted ends the connect") {
  Fixture f;
  f.start();
  const auto outcome = f.spawn(f.guest.device->connect(agent_port, 5s));
  f.send(VsockGuest::header(Op::data, agent_port, f.expect(Op::request).header.source_port), "early");
  CHECK(code_of(outcome) == ErrorCode::unavailable);
  f.expect(Op::reset);
}

TEST_CASE("a flood of packets to unknown ports is answered up to a bound") {
  Fixture f;
  f.start(0);
  const int flood = 5000;
  for (int i = 0; i < flood; ++i) f.send(VsockGuest::header(Op::data, 1, static_cast<std::uint32_t>(i)), "x");
  f.guest.give_receive_buffers(DriverQueue::chains);
  f.poll();
  int answers = 0;
  while (f.guest.receive()) {
    ++answers;
    f.poll();
  }
  CHECK(answers == 256);
  f.guest.give_receive_buffers(1);
  f.connect();
}

TEST_CASE("a receive buffer without room for a packet ends the machine, and every stream") {
  Fixture f;
  f.start(1);
  auto stream = f.connect();  // its buffer went back once
  std::string buffer(16, '\0');
  const auto reading = f.read(*stream, buffer);
  f.guest.receive();
  f.guest.rx_bytes = 44;
  REQUIRE(succeeded(f.write(*stream, "x")));
  f.guest.receive();  // gives a short buffer
  const auto writing = f.write(*stream, "y");
  f.poll();
  REQUIRE(f.guest.failure.has_value());
  CHECK(f.guest.failure->code == ErrorCode::guest);
  CHECK(code_of(writing) == ErrorCode::unavailable);
  CHECK(code_of(reading) == ErrorCode::unavailable);
  CHECK(code_of(f.spawn(f.guest.device->connect(agent_port, 5s))) == ErrorCode::unavailable);
}

// --- Ends ---

TEST_CASE("the host's half-close lets the guest go on") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  REQUIRE(succeeded(f.write(*stream, "request")));
  stream->shutdown_write();
  f.expect(Op::data);
  CHECK(f.expect(Op::shutdown).header.flags == vsock::shutdown_send);
  CHECK(code_of(f.write(*stream, "more")) == ErrorCode::unavailable);
  f.send(Op::data, "answer");
  std::string buffer(16, '\0');
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "answer");
}

TEST_CASE("a half-close follows what is still being written") {
  Fixture f;
  f.start(0);
  f.guest.give_receive_buffers(1);
  const auto stream = f.connect();
  const std::string sent = pattern(20'000);
  const auto writing = f.write(*stream, sent);
  stream->shutdown_write();
  std::string got;
  bool ended = false;
  while (const auto packet = f.guest.receive()) {
    f.poll();
    CHECK_FALSE(ended);
    if (packet->header.op == Op::shutdown) ended = true;
    got += packet->payload;
  }
  CHECK(succeeded(writing));
  CHECK(got == sent);
  CHECK(ended);
}

TEST_CASE("the guest's half-close ends reading after what it sent") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  f.send(Op::data, "last words");
  Header half_close = VsockGuest::header(Op::shutdown, agent_port, f.port);
  half_close.flags = vsock::shutdown_send;
  f.send(half_close);
  std::string buffer(16, '\0');
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "last words");
  CHECK(size_of(f.read(*stream, buffer)) == 0);
  CHECK(succeeded(f.write(*stream, "answer")));
  CHECK(f.expect(Op::data).payload == "answer");
  f.send(Op::data, "after the end");
  f.expect(Op::reset);
}

TEST_CASE("a guest that receives no more fails the outstanding write") {
  Fixture f;
  f.start();
  const auto stream = f.connect(10);
  const auto writing = f.write(*stream, "more than ten bytes");
  CHECK_FALSE(writing->has_value());
  Header half_close = VsockGuest::header(Op::shutdown, agent_port, f.port);
  half_close.flags = vsock::shutdown_receive;
  half_close.buffer_size = 10;
  f.send(half_close);
  CHECK(code_of(writing) == ErrorCode::unavailable);
}

TEST_CASE("a guest that closes gets its RST; what it sent can still be read") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  f.send(Op::data, "bye");
  Header close = VsockGuest::header(Op::shutdown, agent_port, f.port);
  close.flags = vsock::shutdown_both;
  f.send(close);
  f.expect(Op::reset);
  std::string buffer(16, '\0');
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "bye");
  CHECK(size_of(f.read(*stream, buffer)) == 0);
  CHECK(code_of(f.write(*stream, "x")) == ErrorCode::unavailable);
}

TEST_CASE("a guest's reset ends reading with an error, not with an end of stream") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  std::string buffer(16, '\0');
  const auto reading = f.read(*stream, buffer);
  f.send(Op::reset);
  CHECK(code_of(reading) == ErrorCode::unavailable);
  CHECK_FALSE(f.guest.receive().has_value());
}

TEST_CASE("a close without unsent data is an end of stream for the guest") {
  Fixture f;
  f.start();
  auto stream = f.connect();
  std::string buffer(16, '\0');
  const auto reading = f.read(*stream, buffer);
  REQUIRE(succeeded(f.write(*stream, "all of it")));
  stream.reset();
  f.poll();
  CHECK(code_of(reading) == ErrorCode::cancelled);
  f.expect(Op::data);
  CHECK(f.expect(Op::shutdown).header.flags == vsock::shutdown_both);
  f.send(Op::data, "crossed the close");
  CHECK_FALSE(f.guest.receive().has_value());
  f.send(Op::reset);
  f.send(Op::data, "who?");  // forgotten on both sides
  f.expect(Op::reset);
}

TEST_CASE("a close with unsent data is a reset") {
  Fixture f;
  f.start();
  const auto stream = f.connect(4);
  const auto writing = f.write(*stream, "too much");
  stream->close();
  f.poll();
  CHECK(code_of(writing) == ErrorCode::cancelled);
  f.expect(Op::data);
  f.expect(Op::credit_request);
  f.expect(Op::reset);
}

TEST_CASE("a guest that ignores a close is reset after a while") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  stream->close();
  f.poll();
  f.expect(Op::shutdown);
  std::optional<Packet> packet;
  f.run_until([&] { return (packet = f.guest.receive()).has_value(); });
  CHECK(packet->header.op == Op::reset);
}

TEST_CASE("an operation that loses a race leaves the stream usable") {
  using namespace asio::experimental::awaitable_operators;
  Fixture f;
  f.start();
  const auto stream = f.connect();
  bool timed_out = false;
  auto race = [](Stream& reading, bool& out) -> asio::awaitable<void> {
    std::string buffer(16, '\0');
    asio::steady_timer timer(co_await asio::this_coro::executor, 10ms);
    auto winner = co_await (reading.read_some(asio::buffer(buffer)) || timer.async_wait(asio::use_awaitable));
    out = winner.index() == 1;
  };
  bool done = false;
  asio::co_spawn(f.loop, race(*stream, timed_out), [&](std::exception_ptr) { done = true; });
  f.run_until([&] { return done; });
  CHECK(timed_out);
  f.send(Op::data, "not lost");
  std::string buffer(16, '\0');
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "not lost");
}

// --- The device's life ---

TEST_CASE("shutting the device down ends everything that waits; streams may outlive it") {
  Fixture f;
  f.start();
  auto stream = f.connect(4);
  std::string buffer(16, '\0');
  const auto reading = f.read(*stream, buffer);
  const auto writing = f.write(*stream, "too much");
  const auto connecting = f.spawn(f.guest.device->connect(7, 5s));
  std::thread([&] { f.guest.device->shut_down(); }).join();
  f.poll();
  CHECK(code_of(reading) == ErrorCode::cancelled);
  CHECK(code_of(writing) == ErrorCode::cancelled);
  CHECK(code_of(connecting) == ErrorCode::cancelled);
  CHECK(code_of(f.spawn(f.guest.device->connect(7, 5s))) == ErrorCode::unavailable);
  CHECK(code_of(f.read(*stream, buffer)) == ErrorCode::cancelled);

  std::weak_ptr<VsockDevice> device = f.guest.device;
  auto never_started = f.guest.device->connect(7, 5s);
  f.guest.device = make_vsock_device({f.guest.memory, {}, {}}, f.loop.get_executor(), guest_cid);
  CHECK(code_of(f.spawn(std::move(never_started))) == ErrorCode::unavailable);
  CHECK(device.expired());
  CHECK(code_of(f.read(*stream, buffer)) == ErrorCode::cancelled);
  CHECK(code_of(f.write(*stream, "x")) == ErrorCode::cancelled);
  stream->shutdown_write();
  stream->close();
}

TEST_CASE("a device that goes without a word wakes its streams all the same") {
  asio::io_context loop;
  Outcome<std::unique_ptr<Stream>> outcome =
      std::make_shared<std::optional<Result<std::unique_ptr<Stream>>>>();
  auto device = make_vsock_device(
      {std::make_shared<const vmm::GuestMemory>(vmm::GuestMemory::map_anonymous(1 << 20).value()), {}, {}},
      loop.get_executor(), guest_cid);
  asio::co_spawn(loop, keep(device->connect(7, 1h), outcome), asio::detached);
  loop.poll();
  device.reset();
  loop.restart();
  loop.run_for(5s);
  CHECK(code_of(outcome) == ErrorCode::cancelled);
}

TEST_CASE("waiting operations die with their loop") {
  std::unique_ptr<Stream> stream;
  std::string buffer(16, '\0');
  {
    Fixture f;
    f.start();
    stream = f.connect(4);
    f.read(*stream, buffer);
    f.write(*stream, "too much");
    stream.reset();
  }
  SUCCEED();
}

TEST_CASE("a driver's reset ends its connections") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  std::string buffer(16, '\0');
  const auto reading = f.read(*stream, buffer);
  f.guest.set(0x070, 0);
  f.poll();
  CHECK(code_of(reading) == ErrorCode::unavailable);
  CHECK(code_of(f.write(*stream, "x")) == ErrorCode::unavailable);
}

TEST_CASE("a machine that is paused and resumed keeps its streams") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  f.guest.device->quiesce();
  const auto writing = f.write(*stream, "while paused");
  CHECK_FALSE(writing->has_value());
  CHECK_FALSE(f.guest.receive().has_value());
  REQUIRE(f.guest.send(VsockGuest::header(Op::data, agent_port, f.port), "sent before the pause"));
  f.poll();
  f.guest.device->save();
  f.guest.device->resume();
  f.poll();
  CHECK(succeeded(writing));
  CHECK(f.expect(Op::data).payload == "while paused");
  std::string buffer(64, '\0');
  CHECK(buffer.substr(0, size_of(f.read(*stream, buffer))) == "sent before the pause");
}

TEST_CASE("a restored guest loses its connections before it gets new ones") {
  Fixture f;
  f.start();
  const auto stream = f.connect();
  f.guest.device->quiesce();
  const std::string state = f.guest.device->save();

  VsockGuest clone(f.loop, f.guest, state);
  const auto connecting = f.spawn(clone.device->connect(agent_port, 5s));
  // The guest still writes to the connection it believes in.
  REQUIRE(clone.send(VsockGuest::header(Op::data, agent_port, f.port), "to the past"));
  f.poll();
  CHECK_FALSE(clone.receive().has_value());

  int events = 0;
  std::vector<DriverQueue::Used> taken;
  while (const auto used = clone.queues[VsockGuest::event].next_used()) taken.push_back(*used);
  for (const auto& used : taken) {
    if (used.written == 0) continue;
    ++events;
    REQUIRE(used.written == 4);
    std::uint32_t id = 7;
    std::memcpy(&id, clone.bytes_at(VsockGuest::event_buffers + used.chain * 8u, 4), 4);
    CHECK(id == 0);
  }
  CHECK(events == 1);
  CHECK(taken.size() == 8);
  f.poll();
  CHECK_FALSE(clone.receive().has_value());  // taken, but not processed

  SECTION("until it gives the event's buffer back") {
    const std::size_t kicks = clone.kicks;
    for (std::size_t i = 0; i < taken.size(); ++i) clone.give_event_buffer();
    clone.kick(VsockGuest::event);
    CHECK(clone.kicks == kicks + 1);
    f.poll();
    std::uint32_t port = 0;
    while (const auto packet = clone.receive())
      if (packet->header.op == Op::request) port = packet->header.source_port;
    REQUIRE(port != 0);
    CHECK(port != f.port);
    REQUIRE(clone.send(VsockGuest::header(Op::response, agent_port, port)));
    f.poll();
    REQUIRE(connecting->has_value());
    CHECK((*connecting)->ok());
  }
  SECTION("and a snapshot meanwhile does not lose the event") {
    clone.device->quiesce();
    VsockGuest grandchild(f.loop, clone, clone.device->save());
    const auto again = f.spawn(grandchild.device->connect(agent_port, 5s));
    CHECK_FALSE(grandchild.receive().has_value());
    for (int rounds = 0; rounds < 2; ++rounds) {  // the one on its way, then the repeated one
      grandchild.give_event_buffer();
      grandchild.kick(VsockGuest::event);
      f.poll();
      while (grandchild.queues[VsockGuest::event].next_used()) {
      }
    }
    CHECK(grandchild.receive().has_value());
    grandchild.device->shut_down();
    f.poll();
  }

  // The original does not notice.
  f.guest.device->resume();
  CHECK(succeeded(f.write(*stream, "still here")));
  CHECK(f.expect(Op::data).payload == "still here");
}

TEST_CASE("a restored guest without connections is not disturbed, and sees no port again") {
  Fixture f;
  f.start();
  auto stream = f.connect();
  const std::uint32_t old_port = f.port;
  stream->close();
  f.poll();
  f.expect(Op::shutdown);
  f.send(Op::reset);
  f.guest.device->quiesce();
  VsockGuest clone(f.loop, f.guest, f.guest.device->save());
  f.poll();
  CHECK_FALSE(clone.queues[VsockGuest::event].next_used().has_value());
  const auto connecting = f.spawn(clone.device->connect(agent_port, 5s));
  const auto request = clone.receive();
  REQUIRE(request.has_value());
  CHECK(request->header.source_port == old_port + 1);
}

TEST_CASE("a damaged device state is refused") {
  Fixture f;
  f.start();
  f.guest.device->quiesce();
  const std::string state = f.guest.device->save();
  for (std::size_t length = 0; length < state.size(); ++length) {
    asio::io_context loop;
    auto device = make_vsock_device({f.guest.memory, {}, {}}, loop.get_executor(), guest_cid);
    CHECK_FALSE(device->restore(state.substr(0, length)).ok());
  }
  asio::io_context loop;
  auto device = make_vsock_device({f.guest.memory, {}, {}}, loop.get_executor(), guest_cid + 1);
  CHECK(device->restore(state).error().code == ErrorCode::corrupt);
}

TEST_CASE("thousands of connections, and an end to them") {
  Fixture f;
  f.start();
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 4096; ++i) streams.push_back(f.connect());
  CHECK(code_of(f.spawn(f.guest.device->connect(1, 1s))) == ErrorCode::resource_exhausted);
  streams.clear();
  int ends = 0;
  while (const auto packet = f.guest.receive()) {
    CHECK(packet->header.op == Op::shutdown);
    f.send(VsockGuest::header(Op::reset, agent_port, packet->header.source_port));
    ++ends;
  }
  CHECK(ends == 4096);
  f.connect();
}

// --- Threads ---

namespace {

/// A guest of its own thread: accepts everything and echoes, with honest credit on both sides.
class EchoGuest {
 public:
  explicit EchoGuest(VsockGuest& guest) : guest_(guest) {
    guest_.on_interrupt = [this] {
      const std::lock_guard lock(mutex_);
      interrupted_ = true;
      changed_.notify_one();
    };
    thread_ = std::thread([this] { run(); });
  }
  ~EchoGuest() {
    guest_.device->shut_down();  // no interrupt comes any more
    {
      const std::lock_guard lock(mutex_);
      stop_ = interrupted_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }

 private:
  void run() {
    guest_.start();
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return std::exchange(interrupted_, false); });
        if (stop_) return;
      }
      guest_.set(0x064, 1);
      while (auto packet = guest_.receive()) handle(*packet);
      while (!waiting_.empty() && guest_.send(waiting_.front().header, waiting_.front().payload))
        waiting_.pop_front();
    }
  }

  void handle(const Packet& packet) {
    const std::uint32_t port = packet.header.source_port;
    Header answer = VsockGuest::header(Op::response, packet.header.destination_port, port);
    answer.buffer_size = 96u << 10;
    if (packet.header.op == Op::data) {
      forwarded_[port] += packet.header.length;
      answer.op = Op::data;
    } else if (packet.header.op == Op::shutdown) {
      answer.op = packet.header.flags == vsock::shutdown_both ? Op::reset : Op::shutdown;
      answer.flags = vsock::shutdown_send;
    } else if (packet.header.op == Op::credit_request) {
      answer.op = Op::credit_update;
    } else if (packet.header.op != Op::request) {
      return;
    }
    answer.forwarded_count = forwarded_[port];
    if (waiting_.empty() && guest_.send(answer, packet.payload)) return;
    waiting_.push_back({answer, packet.payload});
  }

  VsockGuest& guest_;
  std::map<std::uint32_t, std::uint32_t> forwarded_;
  std::deque<Packet> waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool interrupted_ = false;
  bool stop_ = false;
  std::thread thread_;
};

asio::awaitable<void> send_all(Stream& stream, const std::string& data) {
  const auto done = co_await stream.write(asio::buffer(data));
  CHECK(done.ok());
  stream.shutdown_write();
}

asio::awaitable<void> echo_once(VsockDevice& device, std::size_t bytes, int& finished) {
  using namespace asio::experimental::awaitable_operators;
  auto stream = co_await device.connect(agent_port, 10s);
  CHECK(stream.ok());
  if (!stream) co_return;
  const std::string data = pattern(bytes);
  std::string got;
  auto receive_all = [](Stream& from, std::string& into) -> asio::awaitable<void> {
    std::string buffer(64u << 10, '\0');
    for (;;) {
      const auto length = co_await from.read_some(asio::buffer(buffer));
      CHECK(length.ok());
      if (!length || *length == 0) co_return;
      into.append(buffer, 0, *length);
    }
  };
  co_await (send_all(**stream, data) && receive_all(**stream, got));
  CHECK(got == data);
  ++finished;
}

}  // namespace

TEST_CASE("a guest on another thread echoes on many connections at once, through pauses") {
  const bool event_index = GENERATE(true, false);
  Fixture f(event_index);
  f.guest.device->resume();
  int finished = 0;
  {
    EchoGuest echo(f.guest);
    constexpr int connections = 24;
    for (int i = 0; i < connections; ++i)
      asio::co_spawn(f.loop, echo_once(*f.guest.device, std::size_t{1} << (i % 21), finished),
                     asio::detached);
    std::atomic<bool> over = false;
    std::thread pauses([&] {
      while (!over) {
        f.guest.device->quiesce();
        f.guest.device->save();
        f.guest.device->resume();
        std::this_thread::yield();
      }
    });
    f.run_until([&] { return finished == connections; });
    over = true;
    pauses.join();
  }
  CHECK_FALSE(f.guest.failure.has_value());
}

TEST_CASE("a device is shut down from a worker under load") {
  Fixture f;
  f.guest.device->resume();
  EchoGuest echo(f.guest);
  int ended = 0;
  auto pump = [](VsockDevice& device, int& out) -> asio::awaitable<void> {
    auto stream = co_await device.connect(agent_port, 10s);
    const std::string data = pattern(100'000);
    std::string buffer(1000, '\0');
    bool alive = stream.ok();
    while (alive) {
      const auto written = co_await (*stream)->write(asio::buffer(data));
      alive = written.ok();
      // All of the echo, or both sides would wait for the other to read.
      for (std::size_t left = data.size(); alive && left > 0;) {
        const auto read = co_await (*stream)->read_some(asio::buffer(buffer));
        alive = read.ok() && *read > 0;
        if (alive) left -= *read;
      }
    }
    ++out;
  };
  for (int i = 0; i < 8; ++i) asio::co_spawn(f.loop, pump(*f.guest.device, ended), asio::detached);
  f.run_until([&] { return f.guest.interrupts > 50; });
  std::thread worker([&] { f.guest.device->shut_down(); });
  f.run_until([&] { return ended == 8; });
  worker.join();
}
