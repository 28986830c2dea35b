#include "http/http2_session.hpp"

#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>

#include "http/http2_exchange.hpp"

namespace cube::http {
namespace {

// Frames waiting to be sent before nothing more is read: answers to a client that sends and does not read.
constexpr std::size_t output_queue_limit = 1000;
constexpr std::size_t batch_size = 32 << 10;      // frames joined into one write
constexpr std::size_t discard_limit = 256 << 10;  // of a body nobody wanted, before the stream is reset
constexpr std::chrono::seconds last_words{2};

std::vector<nghttp2_nv> to_nghttp2(const Http2Fields& fields) {
  std::vector<nghttp2_nv> pairs;
  pairs.reserve(fields.size());
  const auto bytes = [](const std::string& text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));  // it is only read
  };
  for (const auto& [name, value] : fields)
    pairs.push_back({bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  return pairs;
}

}  // namespace

// --- Life and end --------------------------------------------------------------------------------

Http2Session::Http2Session(std::shared_ptr<Connection> connection, std::shared_ptr<const Handler> handler,
                           const Limits& limits)
    : connection_(std::move(connection)),
      handler_(std::move(handler)),
      limits_(limits),
      wake_writer_(connection_->executor()),
      drained_(connection_->executor()),
      inactivity_(connection_->executor()) {}

Http2Session::~Http2Session() { nghttp2_session_del(session_); }

asio::awaitable<void> Http2Session::run() {
  const auto self = shared_from_this();
  const auto started = start();
  if (!started.ok()) {
    connection_->close();
    co_return;
  }
  expect_activity(limits_.head_timeout);
  asio::co_spawn(connection_->executor(), write_all(self), [self](std::exception_ptr failure) {
    if (failure) self->connection_->close();  // out of memory
  });
  co_await read_all(self);
  connection_->close();
  lose_streams();
  inactivity_.cancel();
  wake_writer_.notify();
}

void Http2Session::stop() {
  if (session_ == nullptr) return connection_->close();
  end(NGHTTP2_NO_ERROR);
}

/// GOAWAY is the last frame; the writer closes the connection after it, or time does.
void Http2Session::end(std::uint32_t error_code) {
  if (std::exchange(ending_, true)) return;
  nghttp2_session_terminate_session(session_, error_code);
  lose_streams();
  expect_activity(last_words);
  wake_writer_.notify();
}

/// Closes the connection unless told otherwise in time: with a last word if none was said.
void Http2Session::expect_activity(std::chrono::seconds time) {
  inactivity_.expires_after(time);
  inactivity_.async_wait([weak = weak_from_this()](const asio::error_code& cancelled) {
    const auto self = weak.lock();
    // It may have expired just before something happened.
    if (cancelled || !self || self->inactivity_.expiry() > std::chrono::steady_clock::now()) return;
    if (self->ending_)
      self->connection_->close();
    else if (self->handlers_ == 0)
      self->end(NGHTTP2_NO_ERROR);
  });
}

/// Nothing more comes or goes on any stream.
void Http2Session::lose_streams() {
  for (const auto& [id, stream] : std::exchange(streams_, {})) close_stream(stream, NGHTTP2_CANCEL);
  ready_.clear();
}

// --- Bytes ---------------------------------------------------------------------------------------

asio::awaitable<void> Http2Session::read_all(std::shared_ptr<Http2Session> self) {
  Connection& connection = *self->connection_;
  while (!connection.closed() && !self->written_) {
    if (nghttp2_session_get_outbound_queue_size(self->session_) > output_queue_limit) {
      co_await self->drained_.wait();
      continue;
    }
    const std::string_view input = connection.input();
    if (input.empty()) {
      if (connection.ended()) break;
      co_await connection.wait_for_input();
      continue;
    }
    const ssize_t taken = nghttp2_session_mem_recv(
        self->session_, reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    if (taken < 0) {
      log(LogLevel::debug, "http", "HTTP/2 connection ended for what the client sent",
          {{"remote", connection.remote()}, {"error", nghttp2_strerror(static_cast<int>(taken))}});
      self->end(taken == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR);
      break;
    }
    connection.consume(static_cast<std::size_t>(taken));
    self->start_handlers();
    self->wake_writer_.notify();
  }
  // After the last word the rest is not listened to, but taken, so that the word arrives.
  while (!connection.ended()) {
    connection.consume(connection.input().size());
    co_await connection.wait_for_input();
  }
}

/// False when there is nothing more to be said.
bool Http2Session::collect_output(std::string& batch) {
  while (batch.size() < batch_size) {
    const std::uint8_t* bytes = nullptr;
    const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
    if (count < 0) return false;
    if (count == 0) break;
    batch.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
  }
  return !batch.empty() || nghttp2_session_want_read(session_) != 0 ||
         nghttp2_session_want_write(session_) != 0;
}

asio::awaitable<void> Http2Session::write_all(std::shared_ptr<Http2Session> self) {
  const auto connection = self->connection_;
  std::string batch;
  while (!connection->closed()) {
    batch.clear();
    const bool more = self->collect_output(batch);
    if (batch.empty()) {
      if (!more) break;
      std::string().swap(batch);  // an idle connection holds nothing
      co_await self->wake_writer_.wait();
      continue;
    }
    const auto sent = co_await connection->send(asio::buffer(batch));
    if (!sent.ok()) break;
    self->drained_.notify();
  }
  self->written_ = self->ending_ = true;
  self->lose_streams();
  self->drained_.notify();
  if (connection->closed()) co_return;
  connection->shutdown_write();
  self->expect_activity(last_words);
}

// --- Streams -------------------------------------------------------------------------------------

void Http2Session::start_handlers() {
  // Not within a callback: a handler may end before it first waits.
  for (const auto& stream : std::exchange(ready_, {})) {
    if (stream->closed) continue;
    if (handlers_++ == 0) inactivity_.cancel();
    asio::co_spawn(
        connection_->executor(), handle(shared_from_this(), stream),
        [self = shared_from_this(), stream](std::exception_ptr failure) { self->settle(*stream, !failure); });
  }
}

asio::awaitable<void> Http2Session::handle(std::shared_ptr<Http2Session> self, StreamPointer stream) {
  ParsedRequest request;
  if (!stream->refusal) {
    auto parsed = make_request_head(std::exchange(stream->fields, {}), stream->has_body);
    if (auto* refusal = std::get_if<Refusal>(&parsed))
      stream->refusal = std::move(*refusal);
    else
      request = std::get<ParsedRequest>(std::move(parsed));
  }
  Http2Exchange exchange(self, stream, std::move(request), self->limits_.body_timeout);
  if (!stream->refusal) {
    co_await run_handler(*self->handler_, exchange);
    co_return;
  }
  ResponseHead refusal{stream->refusal->status, {}};
  refusal.headers.add("Content-Type", "application/json");
  const auto ignored = co_await exchange.respond(
      std::move(refusal), error_body(stream->refusal->status, stream->refusal->message));
  static_cast<void>(ignored);
}

/// After the handler: what is left of the stream.
void Http2Session::settle(Http2Stream& stream, bool answered) {
  if (--handlers_ == 0 && !ending_) expect_activity(limits_.idle_timeout);
  if (stream.closed) return;
  if (!answered || !stream.whole) return reset(stream, NGHTTP2_INTERNAL_ERROR);
  // The response went out before the request had come whole: what is cheap to take is taken.
  stream.discards = true;
  discard(stream, stream.unread().size());
  std::string().swap(stream.body);
  stream.body_read = 0;
}

void Http2Session::discard(Http2Stream& stream, std::size_t count) {
  consume(stream, count);
  stream.discarded += count;
  if (stream.discarded > discard_limit) reset(stream, NGHTTP2_NO_ERROR);  // RFC 9113 section 8.1
}

void Http2Session::close_stream(const StreamPointer& stream, std::uint32_t error_code) {
  if (std::exchange(stream->closed, true)) return;
  // What was not read of the body would keep its share of the connection's window.
  if (!stream->unread().empty() && !connection_->closed())
    nghttp2_session_consume_connection(session_, stream->unread().size());
  if (error_code != NGHTTP2_NO_ERROR) {
    std::string().swap(stream->body);
    stream->body_read = 0;
  }
  stream->pending = {};
  stream->input_changed.notify();
  stream->output_changed.notify();
  if (stream->whole) return;
  asio::post(connection_->executor(), [stream] {
    if (auto callback = std::exchange(stream->client_gone, nullptr)) callback();
  });
}

void Http2Session::consume(Http2Stream& stream, std::size_t count) {
  if (count == 0 || stream.closed) return;
  nghttp2_session_consume(session_, stream.id, count);
  wake_writer_.notify();
}

Result<void> Http2Session::submit_head(Http2Stream& stream, const Http2Fields& fields, bool ends) {
  const nghttp2_data_provider provider = response_body();
  const auto pairs = to_nghttp2(fields);
  const int code =
      nghttp2_submit_response(session_, stream.id, pairs.data(), pairs.size(), ends ? nullptr : &provider);
  if (code != 0) return http2_error(code);
  wake_writer_.notify();
  return {};
}

Result<void> Http2Session::submit_interim_head(Http2Stream& stream, const Http2Fields& fields) {
  const auto pairs = to_nghttp2(fields);
  const int code = nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream.id, nullptr, pairs.data(),
                                          pairs.size(), nullptr);
  if (code < 0) return http2_error(code);
  wake_writer_.notify();
  return {};
}

void Http2Session::resume(Http2Stream& stream) {
  if (!stream.usable()) return;
  nghttp2_session_resume_data(session_, stream.id);  // fails if it was not paused, which is as good
  wake_writer_.notify();
}

void Http2Session::reset(Http2Stream& stream, std::uint32_t error_code) {
  if (stream.closed) return;
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, error_code);
  wake_writer_.notify();
}

}  // namespace cube::http
