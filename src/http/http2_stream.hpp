// Http2Stream: what a session and an exchange share of one request and its response.
#pragma once

#include <asio/buffer.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "http/event.hpp"
#include "http/http2_head.hpp"

namespace cube::http {

struct Http2Stream {
  Http2Stream(const asio::any_io_executor& executor, std::int32_t number)
      : id(number), input_changed(executor), output_changed(executor) {}

  const std::int32_t id;

  // --- The request.
  Http2Fields fields;          ///< until the head is complete
  std::size_t head_bytes = 0;  ///< as SETTINGS_MAX_HEADER_LIST_SIZE counts them
  std::optional<Refusal> refusal;
  std::string body;           ///< arrived; bounded by the stream's window
  std::size_t body_read = 0;  ///< of that, by the handler
  bool has_body = false;      ///< as the head said; all of it may have arrived by now
  bool remote_ended = false;  ///< nothing follows what is in `body`
  bool discards = false;      ///< the handler is done, the rest of the body is thrown away
  std::size_t discarded = 0;
  Event input_changed;

  std::string_view unread() const { return std::string_view(body).substr(body_read); }

  // --- The response.
  asio::const_buffer pending;  ///< what a handler waits in write() for
  bool last_pending = false;   ///< the response ends with it
  bool whole = false;          ///< its end was handed to the connection
  Event output_changed;

  // --- Both.
  bool closed = false;                ///< nghttp2 knows it no more
  bool aborted = false;               ///< by the handler
  std::function<void()> client_gone;  ///< until called or taken back

  bool usable() const { return !closed && !aborted; }
};

}  // namespace cube::http
