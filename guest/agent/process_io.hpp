// Fan-out of one process's events to the streams that watch it, and the ordered writing of its input.
//
// With nobody subscribed events are dropped. A subscriber that does not keep up fills its bounded queue; the
// process then waits, as it would on a full pipe, until the slowest one has room or goes away: no output is
// lost to a slow reader, and none is kept for it beyond its queue. Input waits for the process in turn, up to
// a bound.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <cube/core.hpp>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace cube::agent {

class Broadcast;

/// One stream's queue of events, JSON texts shared with the other subscribers.
class Subscription {
 public:
  using Event = std::shared_ptr<const std::string>;
  using Deadline = std::chrono::steady_clock::time_point;

  static constexpr std::size_t capacity = 256 << 10;

  explicit Subscription(std::shared_ptr<Broadcast> source);
  ~Subscription();
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

  struct Next {
    enum class Kind { event, last, finished, closed, timeout } kind;
    Event event;
  };
  /// The next event, `last` if none will follow; `finished` after that, `closed` once close() was called,
  /// `timeout` at the deadline.
  asio::awaitable<Next> next(Deadline deadline);

  /// Nobody will read this queue any more. Ends an outstanding next().
  void close();

 private:
  friend class Broadcast;
  bool full() const { return bytes_ >= capacity; }

  std::shared_ptr<Broadcast> source_;
  std::deque<Event> events_;
  std::size_t bytes_ = 0;
  bool closed_ = false;
  asio::steady_timer changed_;
};

class Broadcast : public std::enable_shared_from_this<Broadcast> {
 public:
  explicit Broadcast(asio::any_io_executor loop);

  std::unique_ptr<Subscription> subscribe();
  bool has_subscribers() const { return !subscribers_.empty(); }

  void publish(std::string event);
  /// The last event.
  void finish(std::string event);

  /// Returns when no subscriber is full, or at once after open_valve().
  asio::awaitable<void> wait_for_room();
  /// What is left is published without waiting for the slow: it is bounded by what a pipe holds.
  void open_valve();

 private:
  friend class Subscription;
  bool has_room() const;
  void room_may_have_changed() { room_.cancel(); }

  std::vector<Subscription*> subscribers_;
  bool finished_ = false;
  bool valve_open_ = false;
  asio::steady_timer room_;
};

/// Writes to a descriptor one after the other, whole, in the order of the calls.
class InputWriter {
 public:
  using Descriptor = asio::posix::stream_descriptor;

  static constexpr std::size_t waiting_limit = 32 << 20;  ///< bytes, of all calls that wait

  InputWriter(asio::any_io_executor loop, std::shared_ptr<Descriptor> descriptor);

  /// `invalid_argument` if the input is closed, or was before all of it was taken; `resource_exhausted` if
  /// too much waits already for a process that does not read.
  asio::awaitable<Result<void>> write(std::string bytes);
  void close();

 private:
  std::shared_ptr<Descriptor> descriptor_;
  std::uint64_t next_ticket_ = 0;
  std::uint64_t serving_ = 0;
  std::size_t waiting_ = 0;
  asio::steady_timer turn_;
};

}  // namespace cube::agent
