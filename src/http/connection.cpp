#include "http/connection.hpp"

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <cstring>

#include "core/async.hpp"
#include "http/splice.hpp"

namespace cube::http {
namespace {

constexpr std::size_t input_capacity = 64 << 10;
constexpr std::chrono::seconds gentle_close_time{2};

class RawStream final : public Stream {
 public:
  explicit RawStream(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  ~RawStream() override { connection_->close(); }

  asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) override {
    return read(connection_, buffer);
  }
  asio::awaitable<Result<void>> write(asio::const_buffer buffer) override {
    return send(connection_, buffer);
  }
  void shutdown_write() override { connection_->shutdown_write(); }
  void close() override { connection_->close(); }

 private:
  static asio::awaitable<Result<std::size_t>> read(std::shared_ptr<Connection> connection,
                                                   asio::mutable_buffer buffer) {
    while (connection->input().empty() && !connection->ended()) co_await connection->wait_for_input();
    const std::string_view input = connection->input();
    if (connection->closed()) co_return connection->end_error();
    const std::size_t count = std::min(input.size(), buffer.size());
    if (count > 0) std::memcpy(buffer.data(), input.data(), count);
    connection->consume(count);
    co_return count;
  }
  static asio::awaitable<Result<void>> send(std::shared_ptr<Connection> connection,
                                            asio::const_buffer buffer) {
    co_return co_await connection->send(buffer);
  }

  std::shared_ptr<Connection> connection_;
};

}  // namespace

Connection::Connection(asio::any_io_executor executor, std::unique_ptr<Stream> stream, std::string remote)
    : executor_(std::move(executor)),
      stream_(std::move(stream)),
      remote_(std::move(remote)),
      input_(input_capacity),
      input_changed_(executor_),
      alarm_(executor_),
      may_read_(executor_),
      write_idle_(executor_) {}

Connection::~Connection() { close(); }

void Connection::start() { asio::co_spawn(executor_, read_all(shared_from_this()), asio::detached); }

asio::awaitable<void> Connection::read_all(std::shared_ptr<Connection> self) {
  while (!self->closed_) {
    if (self->input_.full() || self->left_in_socket_) {
      co_await self->may_read_.wait();
      continue;
    }
    self->reading_ = true;
    const auto count = co_await self->stream_->read_some(self->input_.writable());
    self->reading_ = false;
    if (!count.ok() || *count == 0) break;
    self->input_.commit(*count);
    // Whoever waits for these bytes has its turn before the next read: mostly it takes them all, and the next
    // ones come to the same memory.
    self->input_changed_.wake_now();
  }
  self->end_input();
}

void Connection::consume(std::size_t count) {
  if (count == 0) return;
  const bool was_full = input_.full();
  input_.consume(count);
  if (was_full) may_read_.notify();
}

void Connection::leave_in_socket(bool leave) {
  left_in_socket_ = leave;
  if (!leave) may_read_.notify();
}

asio::awaitable<void> Connection::wait_for_input(SteadyTime deadline) {
  if (!input_.empty() || ended_) return ready();
  set_alarm(deadline);
  return input_changed_.wait();
}

/// An alarm that is due earlier than it has to be stays, and is set again then: deadlines of requests that
/// follow each other cost nothing.
void Connection::set_alarm(SteadyTime deadline) {
  deadline_ = deadline;
  if (deadline >= alarm_at_) return;
  alarm_at_ = deadline;
  alarm_.expires_at(deadline);
  alarm_.async_wait([weak = weak_from_this()](const asio::error_code& cancelled) {
    const auto self = weak.lock();
    if (cancelled || !self) return;
    self->alarm_at_ = SteadyTime::max();
    if (std::chrono::steady_clock::now() < self->deadline_)
      self->set_alarm(self->deadline_);
    else
      self->input_changed_.wake_now();
  });
}

Error Connection::end_error() const {
  if (closed_) return make_error(ErrorCode::cancelled, "the connection was closed", remote_);
  return make_error(ErrorCode::unavailable, "the peer closed the connection", remote_);
}

asio::awaitable<Result<void>> Connection::send(asio::const_buffer bytes) {
  const auto self = shared_from_this();
  while (writing_) co_await write_idle_.wait();
  auto begun = begin_writing();
  if (!begun.ok()) co_return begun;
  auto sent = co_await stream_->write(bytes);
  end_writing(sent.ok());
  co_return sent;
}

std::size_t Connection::send_now(asio::const_buffer bytes) {
  return writing_ || closed_ || write_failed_ ? 0 : stream_->write_now(bytes);
}

asio::awaitable<Result<std::uint64_t>> Connection::splice(std::shared_ptr<StreamSocket> from,
                                                          std::uint64_t most) {
  const auto self = shared_from_this();
  const auto to = socket();
  if (!to) co_return std::uint64_t{0};
  while (writing_) co_await write_idle_.wait();
  const auto begun = begin_writing();
  if (!begun.ok()) co_return begun.error();
  auto moved = co_await http::splice(std::move(from), to, most);
  end_writing(moved.ok());
  co_return moved;
}

Result<void> Connection::begin_writing() {
  if (closed_) return end_error();
  if (write_failed_) return make_error(ErrorCode::unavailable, "the peer closed the connection", remote_);
  writing_ = true;
  return {};
}

void Connection::end_writing(bool sent) {
  writing_ = false;
  if (!sent) write_failed_ = true;  // a part may have gone out: nothing sensible can follow
  write_idle_.notify();
}

void Connection::shutdown_write() {
  if (!closed_) stream_->shutdown_write();
}

void Connection::close() {
  if (std::exchange(closed_, true)) return;
  stream_->close();
  may_read_.notify();
  write_idle_.notify();
  end_input();
  if (auto callback = std::exchange(closed_callback_, nullptr)) callback();
}

void Connection::end_input() {
  if (std::exchange(ended_, true)) return;
  input_changed_.wake();
  alarm_.cancel();
  if (auto callback = std::exchange(end_callback_, nullptr)) callback();
}

void Connection::on_end(std::function<void()> callback) {
  end_callback_ = std::move(callback);
  if (!ended_ || !end_callback_) return;
  // Posted, so that the caller is not re-entered; it may still take the callback back.
  asio::post(executor_, [self = shared_from_this()] {
    if (auto callback = std::exchange(self->end_callback_, nullptr)) callback();
  });
}

asio::awaitable<void> Connection::close_gently() {
  const auto self = shared_from_this();
  shutdown_write();
  const SteadyTime deadline = std::chrono::steady_clock::now() + gentle_close_time;
  while (!closed_ && std::chrono::steady_clock::now() < deadline) {
    consume(input().size());
    if (ended_) break;
    co_await wait_for_input(deadline);
  }
  close();
}

std::unique_ptr<Stream> make_raw_stream(std::shared_ptr<Connection> connection) {
  return std::make_unique<RawStream>(std::move(connection));
}

}  // namespace cube::http
