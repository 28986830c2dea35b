// rpc: the Connect protocol (connectrpc.com/docs/protocol), server side.
//
// Unary calls are POSTs of application/json. Server streams are POSTs of application/connect+json: one
// request envelope in, response envelopes out (one flag byte, a 32-bit big-endian length, JSON), then always
// an end-of-stream envelope (flag 0x02) that carries the error, with HTTP status 200. Client streams are read
// envelope by envelope as they arrive. With "proto" in place of "json" messages are protobuf, which codec.hpp
// translates; errors are JSON always. Requests may be compressed with gzip, responses are not.
#pragma once

#include <simdjson.h>

#include <asio/awaitable.hpp>
#include <chrono>
#include <cube/core.hpp>
#include <cube/http.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace cube::agent {

/// How long a call with this Connect-Timeout-Ms may take: a fiftieth less, at most 50 ms. Its client has
/// counted from when it sent the call, or from what it last heard (the Python SDK 2.21), and is told that the
/// time is over before it gives up by itself with another error.
std::chrono::milliseconds time_for_call(std::chrono::milliseconds timeout);

/// One call's circumstances.
struct CallContext {
  const http::RequestHead& head;
  std::string user_name;  ///< from "Authorization: Basic user:"; empty: the default user
  /// time_for_call() after the request's head arrived.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::chrono::seconds keepalive{90};  ///< Keepalive-Ping-Interval
};

/// A parsed JSON object that owns its text. Members that are absent read as the default, as proto3 JSON has
/// it; a member of the wrong type is `invalid_argument` naming it.
class JsonObject {
 public:
  /// `invalid_argument` if it is not one JSON object.
  static Result<JsonObject> parse(std::string text);

  bool has(std::string_view name) const;
  Result<std::string> string(std::string_view name) const;
  Result<bool> boolean(std::string_view name, bool otherwise = false) const;
  Result<std::int64_t> integer(std::string_view name,
                               std::int64_t otherwise = 0) const;  ///< a number or a string of one
  Result<JsonObject> object(std::string_view name) const;          ///< absent: an empty one
  Result<std::size_t> object_count(
      std::string_view name) const;  ///< how many elements an array of objects has
  Result<std::vector<std::string>> strings(std::string_view name) const;
  Result<std::map<std::string, std::string>> string_map(std::string_view name) const;
  Result<std::string> bytes(
      std::string_view name) const;  ///< base64, standard or URL alphabet, padded or not

 private:
  std::shared_ptr<simdjson::dom::parser> parser_;  ///< owns what element_ points into
  simdjson::dom::object object_;
};

/// Writes the messages of a server stream. One writer at a time; the RPC layer serialises keepalives with
/// messages.
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  /// Sends one message at once. `cancelled` when the client is gone.
  virtual asio::awaitable<Result<void>> send(std::string json) = 0;
  /// Keeps the last message, which goes out together with the end of the stream once the method returns.
  virtual void send_last(std::string json) = 0;
  /// Called at most once when the client goes away while the stream is open.
  virtual void on_client_gone(std::function<void()> callback) = 0;
};

/// Reads the messages of a client stream; nothing at its end.
class MessageSource {
 public:
  virtual ~MessageSource() = default;
  virtual asio::awaitable<Result<std::optional<JsonObject>>> receive() = 0;
};

using Unary = std::function<asio::awaitable<Result<std::string>>(CallContext, JsonObject)>;
using ServerStream = std::function<asio::awaitable<Result<void>>(CallContext, JsonObject, MessageSink&)>;
using ClientStream = std::function<asio::awaitable<Result<std::string>>(CallContext, MessageSource&)>;

class Router {
 public:
  /// `path` is "/process.Process/Start".
  void add_unary(std::string path, Unary call);
  void add_server_stream(std::string path, ServerStream call);
  void add_client_stream(std::string path, ClientStream call);

  /// False if no method has the request's path: nothing was answered.
  asio::awaitable<bool> serve(http::Exchange& exchange) const;

 private:
  struct Method {
    Unary unary;
    ServerStream server_stream;
    ClientStream client_stream;
  };
  std::map<std::string, Method, std::less<>> methods_;
};

std::string base64_encode(std::string_view bytes);
std::optional<std::string> base64_decode(std::string_view text);

/// HTTP status of an error code, as Connect and E2B have it: not_found 404, invalid_argument 400, …
int http_status(ErrorCode code);

}  // namespace cube::agent
