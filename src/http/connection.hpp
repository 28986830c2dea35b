// Connection: a stream on which a read is always outstanding into a bounded buffer, so that the peer's going
// is seen even while nobody reads. When the buffer is full reading stops: back-pressure reaches the peer.
#pragma once

#include <cube/http.hpp>
#include <functional>
#include <memory>
#include <string>

#include "http/event.hpp"
#include "http/ring_buffer.hpp"
#include "http/signal.hpp"

namespace cube::http {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(asio::any_io_executor executor, std::unique_ptr<Stream> stream, std::string remote);
  ~Connection();

  /// Begins to read; once, after make_shared.
  void start();

  const asio::any_io_executor& executor() const { return executor_; }
  const std::string& remote() const { return remote_; }

  /// Bytes that arrived, empty if none are there now.
  std::string_view input() const { return input_.readable(); }
  void consume(std::size_t count);

  /// Nothing arrives any more after input(): the peer ended its side, the connection broke or was closed.
  bool ended() const { return ended_; }
  bool closed() const { return closed_; }

  /// Returns when there is input, the input ended or the deadline passed; now and then without a reason.
  asio::awaitable<void> wait_for_input(SteadyTime deadline = SteadyTime::max());

  /// Why there is no more input, for whoever wanted some.
  Error end_error() const;

  /// Whole pieces, one after another, whoever calls.
  asio::awaitable<Result<void>> send(asio::const_buffer bytes);

  /// What of a piece goes out without waiting: how many bytes. The rest is to be sent at once, in the same
  /// turn.
  std::size_t send_now(asio::const_buffer bytes);

  /// Sends up to `most` bytes that come from a socket; how many, see splice.hpp. 0 if this is no socket.
  asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from, std::uint64_t most);

  /// Where the input comes from as it is, or null.
  std::shared_ptr<StreamSocket> socket() const { return stream_->socket(); }

  /// Leaves what follows the input in the socket, but for what is being read already; or reads on.
  void leave_in_socket(bool leave);
  bool reading() const { return reading_; }

  void shutdown_write();

  /// Drops the connection. Waiting operations end with `cancelled`.
  void close();

  /// Ends our side, then lets the peer read what was sent before the connection is dropped: closing with
  /// input unread would make the kernel answer with a reset that can overtake the response.
  asio::awaitable<void> close_gently();

  /// Called once when the input ends, at once if it already has; an empty function takes it back.
  void on_end(std::function<void()> callback);

  /// Called once when the connection is closed here.
  void on_close(std::function<void()> callback) { closed_callback_ = std::move(callback); }

 private:
  static asio::awaitable<void> read_all(std::shared_ptr<Connection> self);
  void end_input();
  void set_alarm(SteadyTime deadline);
  Result<void> begin_writing();
  void end_writing(bool sent);

  asio::any_io_executor executor_;
  std::unique_ptr<Stream> stream_;
  std::string remote_;
  RingBuffer input_;
  Signal input_changed_;
  asio::steady_timer alarm_;  ///< for who waits for input with a deadline
  SteadyTime alarm_at_ = SteadyTime::max();
  SteadyTime deadline_ = SteadyTime::max();  ///< of the last who did; mostly later than the alarm
  Event may_read_;
  Event write_idle_;
  bool reading_ = false;
  bool left_in_socket_ = false;
  bool writing_ = false;
  bool write_failed_ = false;
  bool ended_ = false;
  bool closed_ = false;
  std::function<void()> end_callback_;
  std::function<void()> closed_callback_;
};

/// The raw connection after an upgrade; what was read before comes first.
std::unique_ptr<Stream> make_raw_stream(std::shared_ptr<Connection> connection);

}  // namespace cube::http
