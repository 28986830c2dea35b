#include "vmm/process/daemon_link.hpp"

#include <sys/socket.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/read.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>

#include "vmm/process/link.hpp"
#include "vmm/process/messages.hpp"
#include "vmm/process/sockets.hpp"

namespace cube::vmm {
namespace {

/// For the answer's way; it is the process that keeps the time limit.
constexpr std::chrono::seconds grace{5};
constexpr std::chrono::milliseconds longest_timeout = std::chrono::hours(24);

Error machine_gone() { return make_error(ErrorCode::unavailable, "the machine has stopped"); }
Error guest_closed() { return make_error(ErrorCode::unavailable, "the guest closed the connection"); }

Error connect_error(std::uint8_t answer) {
  const auto code = static_cast<ErrorCode>(answer - 1);
  if (code == ErrorCode::deadline_exceeded) return make_error(code, "the guest did not answer in time");
  if (code == ErrorCode::resource_exhausted) return make_error(code, "too many connections into this guest");
  return make_error(ErrorCode::unavailable, "the guest refused the connection");
}

}  // namespace

/// A connection into the guest. The coroutines share link and socket: a stream may be destroyed under them.
class LinkStream final : public Stream {
 public:
  LinkStream(std::shared_ptr<DaemonLink> link, std::uint64_t connection, StreamSocket socket)
      : link_(std::move(link)), connection_(connection), stream_(make_socket_stream(std::move(socket))) {
    link_->open_.insert(connection_);
  }
  ~LinkStream() override {
    close();
    link_->open_.erase(connection_);
    link_->reset_.erase(connection_);
  }

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    return read_some(link_, connection_, stream_, buffer);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    return write(link_, stream_, buffer);
  }
  std::size_t write_now(asio::const_buffer buffer) override { return stream_->write_now(buffer); }
  void shutdown_write() override { stream_->shutdown_write(); }
  void close() override { stream_->close(); }
  std::shared_ptr<StreamSocket> socket() override { return stream_->socket(); }

 private:
  static asio::awaitable<Result<std::size_t>> read_some(std::shared_ptr<DaemonLink> link,
                                                        std::uint64_t connection,
                                                        std::shared_ptr<Stream> stream,
                                                        asio::mutable_buffer buffer) {
    auto count = co_await stream->read_some(buffer);
    if (!count.ok()) co_return explain(*link, count.error());
    if (*count == 0 && link->was_reset(connection)) co_return explain(*link, guest_closed());
    co_return count;
  }

  static asio::awaitable<Result<void>> write(std::shared_ptr<DaemonLink> link, std::shared_ptr<Stream> stream,
                                             asio::const_buffer buffer) {
    auto written = co_await stream->write(buffer);
    if (!written.ok()) co_return explain(*link, written.error());
    co_return written;
  }

  static Error explain(const DaemonLink& link, const Error& error) {
    if (link.stopped()) return machine_gone();
    return error.code == ErrorCode::cancelled ? error : guest_closed();
  }

  std::shared_ptr<DaemonLink> link_;
  const std::uint64_t connection_;
  std::shared_ptr<Stream> stream_;
};

Result<std::shared_ptr<DaemonLink>> DaemonLink::open(asio::any_io_executor loop, Fd socket,
                                                     std::function<void(std::string_view)> on_console,
                                                     std::function<void(StopReason)> on_stop) {
  try {
    auto link = std::make_shared<DaemonLink>(std::move(loop), std::move(socket), std::move(on_console),
                                             std::move(on_stop));
    asio::co_spawn(link->socket_.get_executor(), listen(link), asio::detached);
    return link;
  } catch (const asio::system_error& error) {
    return os_error(error.code().value(), "cannot watch a machine's socket");
  }
}

DaemonLink::DaemonLink(asio::any_io_executor loop, Fd socket,
                       std::function<void(std::string_view)> on_console,
                       std::function<void(StopReason)> on_stop)
    : socket_(std::move(loop), socket.release()),
      on_console_(std::move(on_console)),
      on_stop_(std::move(on_stop)) {}

void DaemonLink::stop(StopReason reason) {
  if (stopped_.exchange(true)) return;
  asio::post(socket_.get_executor(), [on_stop = on_stop_, reason = std::move(reason)] {
    if (on_stop) on_stop(reason);
  });
}

asio::awaitable<void> DaemonLink::listen(std::shared_ptr<DaemonLink> self) {
  while (!self->ended_) {
    asio::error_code error;
    co_await self->socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                                      asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    self->take_event();
  }
  self->stop({StopReason::Kind::host_error, "the machine's process ended"});
}

bool DaemonLink::take_event() {
  Event event{};
  std::array<char, most_event_bytes> data;
  std::array<iovec, 2> parts = {buffer_of(event), iovec{data.data(), data.size()}};
  const ssize_t count = receive_message(socket_.native_handle(), parts, nullptr, MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return false;
  if (count < static_cast<ssize_t>(sizeof event)) {
    ended_ = true;
    return false;
  }
  const std::string_view content(data.data(), static_cast<std::size_t>(count) - sizeof event);
  std::uint64_t connection = 0;
  switch (event) {
    case Event::stopped: stop(decode_stop(content)); break;
    case Event::console:
      if (on_console_) on_console_(content);
      break;
    case Event::reset:
      if (content.size() == sizeof connection) std::memcpy(&connection, content.data(), sizeof connection);
      if (open_.contains(connection)) reset_.insert(connection);
      break;
  }
  return true;
}

// The process says so before it closes the socket, so what it said is here already.
bool DaemonLink::was_reset(std::uint64_t connection) {
  constexpr int enough = 1024;
  for (int taken = 0; taken < enough && !ended_ && take_event();) ++taken;
  return reset_.contains(connection) || ended_ || stopped_;
}

void DaemonLink::expect_use() {
  ConnectRequest request{};
  iovec bytes = buffer_of(request);
  [[maybe_unused]] const ssize_t a_hint =
      send_message(socket_.native_handle(), std::span(&bytes, 1), {}, MSG_DONTWAIT);
}

asio::awaitable<Result<std::unique_ptr<Stream>>> DaemonLink::connect(std::uint32_t guest_port,
                                                                     std::chrono::milliseconds timeout) {
  const auto self = shared_from_this();
  if (stopped_) co_return machine_gone();
  auto ends = socket_pair(SOCK_STREAM | SOCK_NONBLOCK);
  if (!ends) co_return std::move(ends).error();
  const auto loop = socket_.get_executor();
  StreamSocket ours(loop);
  asio::error_code error;
  ours.assign(asio::generic::stream_protocol(AF_UNIX, 0), (*ends)[0].get(), error);
  if (error) co_return os_error(error.value(), "cannot watch a connection's socket");
  (*ends)[0].release();

  timeout = std::min(timeout, longest_timeout);
  ConnectRequest request{++last_connection_, guest_port, static_cast<std::uint32_t>(timeout.count())};
  auto stream = std::make_unique<LinkStream>(self, request.connection, std::move(ours));
  const auto socket = stream->socket();
  for (;;) {
    iovec bytes = buffer_of(request);
    const int theirs = (*ends)[1].get();
    if (send_message(socket_.native_handle(), std::span(&bytes, 1), std::span(&theirs, 1), MSG_DONTWAIT) > 0)
      break;
    if (errno != EAGAIN) co_return machine_gone();
    co_await socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                                asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return machine_gone();
  }
  (*ends)[1].reset();

  // A process that is not what it was does not keep the loop's callers waiting.
  const auto waiting = std::make_shared<bool>(true);
  asio::steady_timer limit(loop, timeout + grace);
  limit.async_wait([socket, waiting](const asio::error_code& cancelled) {
    asio::error_code ignored;
    if (!cancelled && *waiting) socket->close(ignored);
  });
  std::uint8_t answer = 0;
  co_await asio::async_read(*socket, asio::buffer(&answer, 1),
                            asio::redirect_error(asio::use_awaitable, error));
  *waiting = false;
  if (error && !socket->is_open())
    co_return make_error(ErrorCode::deadline_exceeded, "the guest did not answer in time");
  if (error) co_return machine_gone();
  if (answer != 0) co_return connect_error(answer);
  co_return std::unique_ptr<Stream>(std::move(stream));
}

}  // namespace cube::vmm
