// What daemon and machine process say to each other, and the daemon's side of it when the process is hostile.
#include <sys/mman.h>
#include <sys/socket.h>

#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "event_loop.hpp"
#include "vmm/process/channel.hpp"
#include "vmm/process/daemon_link.hpp"
#include "vmm/process/disk_socket.hpp"
#include "vmm/process/link.hpp"
#include "vmm/process/messages.hpp"
#include "vmm/process/sockets.hpp"

using namespace cube;
using namespace cube::vmm;
using cube::test::eventually;
using cube::test::must;
using cube::test::run;

namespace {

using Bytes = std::vector<std::byte>;

Bytes pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

class MemoryDisk final : public BlockBackend {
 public:
  explicit MemoryDisk(std::size_t bytes) : content(bytes) {}
  std::uint64_t capacity_bytes() const override { return content.size(); }
  Result<void> read(std::uint64_t offset, std::span<const iovec> into) override {
    for (const iovec& buffer : into) {
      std::memcpy(buffer.iov_base, content.data() + offset, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return outcome();
  }
  Result<void> write(std::uint64_t offset, std::span<const iovec> from) override {
    for (const iovec& buffer : from) {
      std::memcpy(content.data() + offset, buffer.iov_base, buffer.iov_len);
      offset += buffer.iov_len;
    }
    return outcome();
  }
  Result<void> flush() override {
    ++flushes;
    return outcome();
  }
  Result<void> outcome() const {
    if (fails) return make_error(ErrorCode::resource_exhausted, "no space left");
    return {};
  }

  Bytes content;
  std::atomic<int> flushes = 0;
  std::atomic<bool> fails = false;
};

/// A disk that is served on a thread of its own, and the process' end of it.
struct Served {
  explicit Served(std::size_t bytes) : backend(std::make_shared<MemoryDisk>(bytes)) {
    auto ends = must(socket_pair(SOCK_SEQPACKET));
    theirs = std::move(ends[1]);
    server = must(serve_disk(loop.get_executor(), std::move(ends[0]), backend, [this] { violated = true; }));
    thread = std::thread([this] { loop.run(); });  // until its socket is closed
  }
  ~Served() {
    theirs.reset();
    remote.reset();
    thread.join();
  }
  BlockBackend& disk() {
    if (!remote) remote = make_remote_disk(std::move(theirs), backend->content.size());
    return *remote;
  }
  /// As a process that does not keep to the rules.
  void send(const Bytes& packet) const {
    iovec bytes{const_cast<std::byte*>(packet.data()), packet.size()};
    REQUIRE(send_message(theirs.get(), std::span(&bytes, 1)) == static_cast<ssize_t>(packet.size()));
  }
  /// Whether it broke them: then nobody answers any more.
  bool ends_by_violation() const {
    Bytes answer(64);
    iovec bytes{answer.data(), answer.size()};
    std::jthread waker([this] {
      while (!violated) std::this_thread::yield();
      ::shutdown(theirs.get(), SHUT_RDWR);
    });
    return receive_message(theirs.get(), std::span(&bytes, 1)) <= 0 && violated;
  }

  asio::io_context loop{1};
  std::shared_ptr<MemoryDisk> backend;
  Fd theirs;
  std::shared_ptr<DiskServer> server;
  std::shared_ptr<BlockBackend> remote;
  std::atomic<bool> violated = false;
  std::thread thread;
};

Bytes request(std::uint32_t operation, std::uint32_t bytes, std::uint64_t offset, std::size_t data = 0) {
  Bytes packet(16 + data);
  std::memcpy(packet.data(), &operation, 4);
  std::memcpy(packet.data() + 4, &bytes, 4);
  std::memcpy(packet.data() + 8, &offset, 8);
  return packet;
}

/// The daemon's end of a link, and the process'.
struct Linked {
  explicit Linked(asio::io_context& loop) {
    auto ends = must(socket_pair(SOCK_SEQPACKET));
    theirs = std::move(ends[1]);
    link = must(DaemonLink::open(
        loop.get_executor(), std::move(ends[0]), [this](std::string_view text) { console += text; },
        [this](StopReason reason) {
          ++stops;
          stop = std::move(reason);
        }));
  }
  void tell(std::uint32_t event, std::string_view content) const {
    std::array<iovec, 2> parts = {buffer_of(event), iovec{const_cast<char*>(content.data()), content.size()}};
    REQUIRE(send_message(theirs.get(), parts) > 0);
  }
  /// The process' side of a connection that was asked for; an answer is given unless it is negative.
  std::pair<ConnectRequest, Fd> accept(int answer) const {
    ConnectRequest asked{};
    iovec bytes = buffer_of(asked);
    std::vector<Fd> descriptors;
    REQUIRE(receive_message(theirs.get(), std::span(&bytes, 1), &descriptors) == sizeof asked);
    REQUIRE(descriptors.size() == 1);
    const auto byte = static_cast<char>(answer);
    if (answer >= 0) REQUIRE(::write(descriptors.front().get(), &byte, 1) == 1);
    return {asked, std::move(descriptors.front())};
  }
  void reset(std::uint64_t connection) const {
    tell(static_cast<std::uint32_t>(Event::reset),
         {reinterpret_cast<const char*>(&connection), sizeof connection});
  }

  Fd theirs;
  std::shared_ptr<DaemonLink> link;
  std::string console;
  StopReason stop;
  int stops = 0;
};

using StreamPtr = std::unique_ptr<Stream>;

/// For co_spawn, which wants results that can be empty.
asio::awaitable<void> connect(Linked& linked, std::uint32_t port, std::optional<Result<StreamPtr>>& outcome) {
  outcome = co_await linked.link->connect(port, std::chrono::seconds(5));
}

asio::awaitable<StreamPtr> connected(Linked& linked, std::pair<ConnectRequest, Fd>& other_end) {
  std::optional<Result<StreamPtr>> outcome;
  asio::co_spawn(co_await asio::this_coro::executor, connect(linked, 80, outcome), asio::detached);
  other_end = linked.accept(0);
  co_await eventually([&] { return outcome.has_value(); });
  co_return must(std::move(*outcome));
}

}  // namespace

TEST_CASE("what passes to and from a machine's process arrives as it was, or as an error") {
  const GuestSettings settings{{1, 2, 3}, 4096, true, false, true};
  std::vector<int> files;
  const std::vector<MemoryImage::Run> runs = {
      {0, 4096, 1001, 8192}, {8192, 4096, 1000, 0}, {16384, 8192, 1001, 4096}};
  const std::vector<PageRun> working_set = {{0, 4096, true}, {8192, 4096, false}};
  MemoryImage image;
  image.base_fd = 1000;
  image.runs = runs;
  image.working_set = working_set;
  image.first_use = std::span(working_set).last(1);
  image.observed = true;
  const std::string bytes = encode_restore(settings, MachineState{"state"}, image, files);
  REQUIRE(files == std::vector<int>{1000, 1001});  // each once
  std::vector<Fd> received;
  received.emplace_back(2000);
  received.emplace_back(2001);
  const auto decoded = must(decode_restore(bytes, received));
  CHECK(decoded.state.bytes == "state");
  CHECK(decoded.observed);
  REQUIRE(decoded.runs.size() == 3);
  CHECK(decoded.runs[0].fd == 2001);
  CHECK(decoded.runs[1].fd == 2000);
  CHECK(decoded.runs[2].file_offset == 4096);
  REQUIRE(decoded.working_set.size() == 2);
  CHECK(decoded.working_set[0].written);
  REQUIRE(decoded.first_use.size() == 1);
  CHECK(decoded.first_use[0].offset == 8192);
  CHECK_FALSE(decoded.first_use[0].written);
  CHECK(must(decode_settings(bytes)).disk_bytes == 4096);
  for (std::size_t length = 0; length < bytes.size(); ++length)
    CHECK_FALSE(decode_restore(std::string_view(bytes).substr(0, length), received).ok());
  received.pop_back();
  CHECK_FALSE(decode_restore(bytes, received).ok());  // a file is missing

  CHECK(must(decode_answer(encode_answer(std::string("bytes")))) == "bytes");
  Error error = make_error(ErrorCode::corrupt, "message", "object");
  error.os_errno = 5;
  const std::string failed = encode_answer(error);
  const auto back = decode_answer(failed).error();
  CHECK(back.code == ErrorCode::corrupt);
  CHECK(back.describe() == error.describe());
  for (std::size_t length = 0; length < failed.size(); ++length)
    CHECK_FALSE(decode_answer(std::string_view(failed).substr(0, length)).ok());
}

TEST_CASE("a channel keeps messages whole, with their descriptors, and ends with its other end") {
  auto ends = must(socket_pair(SOCK_STREAM));
  Channel ours(std::move(ends[0]));
  auto theirs = std::make_unique<Channel>(std::move(ends[1]));
  const std::string large(3 << 20, 'x');
  std::thread other([&] {
    for (const bool taken : {true, false}) {
      auto message =
          theirs->receive(taken ? Channel::Descriptors::taken : Channel::Descriptors::refused, 4 << 20);
      const bool as_sent = message && message->type == 7 && message->bytes == large;
      const std::string answer = as_sent ? std::to_string(message->descriptors.size()) : "wrong";
      static_cast<void>(theirs->send(0, answer));
    }
    theirs.reset();
  });
  const Fd extra(::memfd_create("extra", MFD_CLOEXEC));
  const std::array<int, 2> descriptors = {extra.get(), extra.get()};
  for (const char* count : {"2", "0"}) {
    REQUIRE(ours.send(7, large, descriptors).ok());
    CHECK(must(ours.receive(Channel::Descriptors::taken, 4 << 20)).bytes == count);
  }
  other.join();
  CHECK(ours.receive(Channel::Descriptors::taken, 4 << 20).error().code == ErrorCode::unavailable);
}

TEST_CASE("a channel gives up on a process that does not answer, and on one that says too much") {
  auto ends = must(socket_pair(SOCK_STREAM));
  Channel ours(std::move(ends[0]));
  REQUIRE(ours.set_patience(std::chrono::seconds(1)).ok());
  CHECK(ours.receive(Channel::Descriptors::refused, 4 << 20).error().code == ErrorCode::deadline_exceeded);
  const std::array<std::uint32_t, 2> header = {0, 0xffffffff};
  REQUIRE(::write(ends[1].get(), header.data(), sizeof header) == sizeof header);
  CHECK(ours.receive(Channel::Descriptors::refused, 4 << 20).error().code == ErrorCode::corrupt);
}

TEST_CASE("a remote disk reads and writes what the backend holds, in buffers and pieces of any size") {
  Served served(1 << 20);
  served.server->open();
  const Bytes written = pattern(600 << 10, 1);
  auto* data = const_cast<std::byte*>(written.data());
  const std::vector<iovec> from = {
      {data, 512}, {data + 512, 300 << 10}, {data + 512 + (300 << 10), written.size() - 512 - (300 << 10)}};
  REQUIRE(served.disk().write(4096, from).ok());
  Bytes back(written.size());
  const std::vector<iovec> into = {{back.data(), 200 << 10},
                                   {back.data() + (200 << 10), back.size() - (200 << 10)}};
  REQUIRE(served.disk().read(4096, into).ok());
  CHECK(back == written);
  CHECK(std::equal(written.begin(), written.end(), served.backend->content.begin() + 4096));
  REQUIRE(served.disk().flush().ok());
  CHECK(served.backend->flushes == 1);
  served.backend->fails = true;
  CHECK_FALSE(served.disk().read(4096, into).ok());
  CHECK_FALSE(served.disk().flush().ok());
  served.backend->fails = false;
  CHECK(served.disk().flush().ok());
  CHECK_FALSE(served.violated);
}

TEST_CASE("no request of a hostile process reaches beyond its disk, nor one while the machine is paused") {
  constexpr std::uint32_t read = 0, write = 1, flush = 2;
  const std::vector<Bytes> bad = {
      request(read, 512, 1 << 20),           // behind the end
      request(read, 1024, (1 << 20) - 512),  // across it
      request(read, 512, ~std::uint64_t{0} - 511),
      request(read, 513, 0),
      request(read, 512, 1),
      request(read, 0, 0),
      request(read, 256 << 10, 0),  // more than a packet takes
      request(read, 512, 0, 512),   // with data
      request(write, 512, 0, 511),  // with less than it says
      request(write, 512, 0),
      request(flush, 512, 0),
      request(3, 512, 0),
      Bytes(15),
  };
  for (std::size_t i = 0; i < bad.size(); ++i) {
    INFO("request " << i);
    Served served(1 << 20);
    served.server->open();
    served.send(bad[i]);
    CHECK(served.ends_by_violation());
  }
  for (const bool was_open : {false, true}) {
    Served served(1 << 20);
    if (was_open) served.server->open();
    if (was_open) served.server->close();
    served.send(request(write, 512, 0, 512));
    CHECK(served.ends_by_violation());
  }
}

TEST_CASE("connections through a link: data, both half-closes, refusals, resets, the machine's end") {
  asio::io_context loop;
  run(loop, [&]() -> asio::awaitable<void> {
    Linked linked(loop);
    std::pair<ConnectRequest, Fd> guest;
    auto stream = co_await connected(linked, guest);
    if (guest.first.guest_port != 80) throw test::TestError("another port");
    const std::string hello = "hello";
    must(co_await stream->write(asio::buffer(hello)));
    std::string text(5, 0);
    if (::read(guest.second.get(), text.data(), 5) != 5 || text != hello) throw test::TestError("not hello");
    stream->shutdown_write();
    if (::read(guest.second.get(), text.data(), 5) != 0) throw test::TestError("not the end");
    if (::write(guest.second.get(), "world", 5) != 5) throw test::TestError("cannot answer");
    if (must(co_await stream->read_some(asio::buffer(text))) != 5) throw test::TestError("not all");
    guest.second.reset();
    if (must(co_await stream->read_some(asio::buffer(text))) != 0) throw test::TestError("not the end");

    // A reset is not an end, even if it is found only when the socket is closed.
    auto second = co_await connected(linked, guest);
    linked.reset(guest.first.connection);
    guest.second.reset();
    auto broken = co_await second->read_some(asio::buffer(text));
    if (broken.ok()) throw test::TestError("a reset looks like an end");
    linked.reset(12345);  // nobody's
    linked.tell(static_cast<std::uint32_t>(Event::reset), "short");

    std::optional<Result<StreamPtr>> refused;
    asio::co_spawn(loop, connect(linked, 81, refused), asio::detached);
    linked.accept(1 + static_cast<int>(ErrorCode::unavailable));
    co_await eventually([&] { return refused.has_value(); });
    if (refused->ok() || refused->error().code != ErrorCode::unavailable)
      throw test::TestError("not refused");

    auto third = co_await connected(linked, guest);
    linked.tell(static_cast<std::uint32_t>(Event::console), "text of the console");
    linked.tell(static_cast<std::uint32_t>(Event::stopped),
                encode_stop({StopReason::Kind::guest_error, "a reason"}));
    linked.theirs.reset();
    guest.second.reset();
    broken = co_await third->read_some(asio::buffer(text));
    if (broken.ok()) throw test::TestError("the machine's end looks like the connection's");
    co_await eventually([&] { return linked.stops > 0; });
    auto late = co_await linked.link->connect(80, std::chrono::seconds(5));
    if (late.ok()) throw test::TestError("a machine that stopped answers");
    if (linked.console != "text of the console" || linked.stop.detail != "a reason" || linked.stops != 1)
      throw test::TestError("the machine said something else");
  });
}

TEST_CASE("a process that says nonsense, or nothing, ends its machine") {
  for (const int how : {0, 1, 2, 3}) {
    asio::io_context loop;
    run(loop, [&]() -> asio::awaitable<void> {
      Linked linked(loop);
      if (how == 0) linked.tell(static_cast<std::uint32_t>(Event::stopped), "nonsense");
      if (how == 1) linked.theirs.reset();
      if (how == 2) REQUIRE(::send(linked.theirs.get(), "x", 1, 0) == 1);
      if (how == 3) {
        for (std::uint32_t event = 3; event < 100; ++event) linked.tell(event, "what is that?");
        linked.theirs.reset();
      }
      co_await eventually([&] { return linked.stops == 1; });
    });
  }
}
