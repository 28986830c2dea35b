// What nghttp2 calls, and how it is set up. Callbacks only change state and wake coroutines.
#include <algorithm>
#include <cstring>

#include "http/http2_session.hpp"

namespace cube::http {
namespace {

// What a client may send of one body, and of all, before a handler reads: the first keeps a long line busy,
// the second is shared by 64 handlers that do not read before others have to wait for them.
constexpr std::int32_t stream_window = 256 << 10;
constexpr std::int32_t connection_window = 16 << 20;

constexpr std::size_t acknowledgement_limit = 256;  // of PING and SETTINGS among them; more is an attack
// Streams a client may open only to reset them: so many at once, and so many a second (CVE-2023-44487).
constexpr std::uint64_t reset_burst = 500, reset_rate = 50;
constexpr std::size_t continuation_limit = 8;  // frames of one head, beyond the first

constexpr std::size_t field_overhead = 32;  // RFC 9113 section 6.5.2

}  // namespace

Error http2_error(int code) {
  return make_error(code == NGHTTP2_ERR_NOMEM ? ErrorCode::resource_exhausted : ErrorCode::unavailable,
                    std::string("HTTP/2: ") + nghttp2_strerror(code));
}

struct Http2Session::Callbacks {
  static Http2Session& session_of(void* user) { return *static_cast<Http2Session*>(user); }
  static Http2Stream* stream_of(void* user, std::int32_t id) {
    const auto& streams = session_of(user).streams_;
    const auto found = streams.find(id);
    return found == streams.end() ? nullptr : found->second.get();
  }
  static bool is_request(const nghttp2_frame* frame) {
    return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
  }

  static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (!is_request(frame)) return 0;
    Http2Session& self = session_of(user);
    const std::int32_t id = frame->hd.stream_id;
    // Handlers of streams that were reset may still run: they count as well.
    if (self.ending_ || self.handlers_ + self.ready_.size() >= 2 * self.limits_.streams)
      return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
    self.streams_.emplace(id, std::make_shared<Http2Stream>(self.connection_->executor(), id));
    return 0;
  }

  static int header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                    void* user) {
    // Of trailers nobody wants anything.
    Http2Stream* const stream = is_request(frame) ? stream_of(user, frame->hd.stream_id) : nullptr;
    if (stream == nullptr || stream->refusal) return 0;
    const Limits& limits = session_of(user).limits_;
    stream->head_bytes += name_size + value_size + field_overhead;
    if (stream->head_bytes > limits.head_bytes)
      stream->refusal = {431, "the head is larger than " + std::to_string(limits.head_bytes) + " bytes"};
    else if (stream->fields.size() >= limits.header_count)
      stream->refusal = {431, "too many header fields"};
    else
      stream->fields.emplace_back(std::string(reinterpret_cast<const char*>(name), name_size),
                                  std::string(reinterpret_cast<const char*>(value), value_size));
    if (stream->refusal) Http2Fields().swap(stream->fields);
    return 0;
  }

  /// nghttp2 would leave such a field out.
  static int invalid_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t*, std::size_t,
                            const std::uint8_t*, std::size_t, std::uint8_t, void* user) {
    Http2Stream* const stream = is_request(frame) ? stream_of(user, frame->hd.stream_id) : nullptr;
    if (stream != nullptr && !stream->refusal) stream->refusal = {400, "malformed header field"};
    return 0;
  }

  static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Http2Session& self = session_of(user);
    if (frame->hd.type == NGHTTP2_SETTINGS && !std::exchange(self.heard_, true))
      self.expect_activity(self.limits_.idle_timeout);
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    Http2Stream* const stream = stream_of(user, frame->hd.stream_id);
    if (stream == nullptr) return 0;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      stream->remote_ended = true;
      stream->input_changed.notify();
    }
    if (!is_request(frame)) return 0;
    stream->has_body = !stream->remote_ended;
    self.ready_.push_back(self.streams_.at(stream->id));
    return 0;
  }

  static int data_received(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                           std::size_t size, void* user) {
    Http2Stream* const stream = stream_of(user, id);
    if (stream == nullptr) return nghttp2_session_consume(session, id, size);
    if (stream->discards) {
      session_of(user).discard(*stream, size);
      return 0;
    }
    if (stream->body_read > 0 && stream->body_read >= stream->body.size() / 2) {
      stream->body.erase(0, stream->body_read);
      stream->body_read = 0;
    }
    stream->body.append(reinterpret_cast<const char*>(data), size);
    stream->input_changed.notify();
    return 0;
  }

  static int frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    const bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (!ends || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) return 0;
    Http2Stream* const stream = stream_of(user, frame->hd.stream_id);
    if (stream == nullptr) return 0;
    stream->whole = true;
    stream->output_changed.notify();
    return 0;
  }

  static int stream_closed(nghttp2_session*, std::int32_t id, std::uint32_t error_code, void* user) {
    Http2Session& self = session_of(user);
    const auto taken = self.streams_.extract(id);
    if (!taken.empty()) self.close_stream(taken.mapped(), error_code);
    return 0;
  }

  /// Takes what a handler waits in write() for, straight from its buffer.
  static ssize_t take_pending(nghttp2_session*, std::int32_t id, std::uint8_t* to, std::size_t capacity,
                              std::uint32_t* flags, nghttp2_data_source*, void* user) {
    Http2Stream* const stream = stream_of(user, id);
    if (stream == nullptr || stream->aborted) return NGHTTP2_ERR_DEFERRED;
    const std::size_t count = std::min(capacity, stream->pending.size());
    if (count > 0) std::memcpy(to, stream->pending.data(), count);
    stream->pending += count;
    const bool drained = stream->pending.size() == 0;
    if (drained && stream->last_pending)
      *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (count == 0)
      return NGHTTP2_ERR_DEFERRED;
    if (drained) stream->output_changed.notify();
    return static_cast<ssize_t>(count);
  }
};

nghttp2_data_provider Http2Session::response_body() {
  nghttp2_data_provider provider{};
  provider.read_callback = Callbacks::take_pending;
  return provider;
}

Result<void> Http2Session::start() {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_option* option = nullptr;
  if (nghttp2_session_callbacks_new(&callbacks) != 0) return http2_error(NGHTTP2_ERR_NOMEM);
  if (nghttp2_option_new(&option) != 0) {
    nghttp2_session_callbacks_del(callbacks);
    return http2_error(NGHTTP2_ERR_NOMEM);
  }
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, Callbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Callbacks::header);
  nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, Callbacks::invalid_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::frame_received);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::data_received);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, Callbacks::frame_sent);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::stream_closed);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  nghttp2_option_set_max_outbound_ack(option, acknowledgement_limit);
  nghttp2_option_set_stream_reset_rate_limit(option, reset_burst, reset_rate);
  nghttp2_option_set_max_continuations(option, continuation_limit);
  int code = nghttp2_session_server_new2(&session_, callbacks, this, option);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  if (code != 0) return http2_error(code);

  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, static_cast<std::uint32_t>(limits_.streams)},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stream_window},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<std::uint32_t>(limits_.head_bytes)}};
  code = nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  if (code == 0)
    code = nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, connection_window);
  if (code != 0) return http2_error(code);
  return {};
}

}  // namespace cube::http
