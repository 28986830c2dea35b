// Http2Session: one connection that speaks HTTP/2. nghttp2 knows frames, HPACK, flow control and priorities;
// this moves its bytes, starts handlers and bounds what a client can make us hold and do.
//
// One coroutine reads, one writes, and each request has one for its handler. nghttp2's callbacks only change
// state and wake them.
#pragma once

#include <nghttp2/nghttp2.h>

#include <asio/steady_timer.hpp>
#include <cube/http.hpp>
#include <memory>
#include <unordered_map>
#include <vector>

#include "http/connection.hpp"
#include "http/http2_stream.hpp"
#include "http/tls.hpp"

namespace cube::http {

/// What a return code of nghttp2 says.
Error http2_error(int code);

class Http2Session final : public Http2Server, public std::enable_shared_from_this<Http2Session> {
 public:
  Http2Session(std::shared_ptr<Connection> connection, std::shared_ptr<const Handler> handler,
               const Limits& limits);
  ~Http2Session() override;

  asio::awaitable<void> run() override;
  void stop() override;

  // --- For exchanges; a stream that is not usable is left alone.

  Connection& connection() { return *connection_; }

  /// The handler has read that much of the body: the client may send as much again.
  void consume(Http2Stream& stream, std::size_t count);

  /// The response's head; what `pending` holds, now and later, follows unless the head `ends` it.
  Result<void> submit_head(Http2Stream& stream, const Http2Fields& fields, bool ends);
  Result<void> submit_interim_head(Http2Stream& stream, const Http2Fields& fields);

  /// There is something in `pending` again.
  void resume(Http2Stream& stream);

  void reset(Http2Stream& stream, std::uint32_t error_code);

 private:
  using StreamPointer = std::shared_ptr<Http2Stream>;
  struct Callbacks;  // nghttp2's

  Result<void> start();
  static nghttp2_data_provider response_body();
  static asio::awaitable<void> read_all(std::shared_ptr<Http2Session> self);
  static asio::awaitable<void> write_all(std::shared_ptr<Http2Session> self);
  static asio::awaitable<void> handle(std::shared_ptr<Http2Session> self, StreamPointer stream);

  bool collect_output(std::string& batch);
  void start_handlers();
  void settle(Http2Stream& stream, bool answered);
  void discard(Http2Stream& stream, std::size_t count);
  void close_stream(const StreamPointer& stream, std::uint32_t error_code);
  void end(std::uint32_t error_code);
  void lose_streams();
  void expect_activity(std::chrono::seconds time);

  std::shared_ptr<Connection> connection_;
  std::shared_ptr<const Handler> handler_;
  Limits limits_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<std::int32_t, StreamPointer> streams_;  ///< those that are not closed
  std::vector<StreamPointer> ready_;                         ///< whose head is complete
  std::size_t handlers_ = 0;
  bool heard_ = false;    ///< the client's SETTINGS came
  bool ending_ = false;   ///< a last GOAWAY is on its way
  bool written_ = false;  ///< and nothing follows it
  Event wake_writer_;
  Event drained_;
  asio::steady_timer inactivity_;
};

}  // namespace cube::http
