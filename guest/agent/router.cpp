#include <algorithm>
#include <charconv>

#include "codec.hpp"
#include "connect_stream.hpp"
#include "gzip.hpp"
#include "rpc.hpp"
#include "text.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t unary_limit = 16 << 20;
constexpr std::string_view error_type = "application/json";  // of unary calls, whatever their codec
constexpr std::chrono::seconds default_keepalive{90};
constexpr std::chrono::seconds longest_keepalive{3600};

std::string_view header(const http::RequestHead& head, std::string_view name) {
  return trim(head.headers.get(name).value_or(std::string_view()));
}

std::optional<std::uint64_t> parse_digits(std::string_view text) {
  std::uint64_t number = 0;
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// RFC 7617: "Basic " base64(user ":" password). The password is not looked at; the access token is what
/// protects.
Result<std::string> basic_user(std::string_view authorization) {
  constexpr std::string_view scheme = "basic ";
  if (!same_ignoring_case(authorization.substr(0, scheme.size()), scheme)) return std::string();
  const auto credentials = base64_decode(trim(authorization.substr(scheme.size())));
  const std::size_t colon = credentials ? credentials->find(':') : std::string::npos;
  if (colon == std::string::npos)
    return make_error(ErrorCode::unauthenticated, "malformed Basic credentials in Authorization");
  return credentials->substr(0, colon);
}

Result<CallContext> make_context(const http::RequestHead& head) {
  CallContext context{head, {}, {}, default_keepalive};
  if (const auto version = header(head, "connect-protocol-version"); !version.empty() && version != "1")
    return make_error(ErrorCode::invalid_argument, "connect-protocol-version must be \"1\"");

  auto user = basic_user(header(head, "authorization"));
  if (!user.ok()) return std::move(user).error();
  context.user_name = std::move(*user);

  if (const auto text = header(head, "connect-timeout-ms"); !text.empty()) {
    const auto milliseconds = parse_digits(text);
    if (!milliseconds || text.size() > 10)  // at most ten digits, says the protocol
      return make_error(ErrorCode::invalid_argument,
                        "invalid connect-timeout-ms '" + std::string(text) + "'");
    if (*milliseconds > 0)
      context.deadline =
          std::chrono::steady_clock::now() + time_for_call(std::chrono::milliseconds(*milliseconds));
  }
  if (const auto seconds = parse_digits(header(head, "keepalive-ping-interval")); seconds && *seconds > 0)
    context.keepalive = std::chrono::seconds(std::min<std::uint64_t>(*seconds, longest_keepalive.count()));
  return context;
}

// Not in the coroutines themselves: g++ 12 cannot keep an initializer list in a frame.
http::ResponseHead make_head(int status, std::string_view name, std::string_view value) {
  http::ResponseHead head{status, {}};
  head.headers.add(name, value);
  return head;
}

asio::awaitable<void> respond(http::Exchange& exchange, http::ResponseHead head, std::string body) {
  const Result<void> sent = co_await exchange.respond(std::move(head), std::move(body));
  if (!sent.ok()) co_return;  // the client is gone: nobody is left to be told
}

asio::awaitable<void> respond_error(http::Exchange& exchange, http::ResponseHead head, Error error) {
  head.headers.set("Content-Type", error_type);
  co_await respond(exchange, std::move(head), error_json(error));
}

Result<JsonObject> open_body(std::string body, const Codec& codec, Compression compression) {
  if (compression == Compression::gzip && !body.empty()) {
    auto decompressed = decompress(body, unary_limit);
    if (!decompressed.ok()) return std::move(decompressed).error();
    body = std::move(*decompressed);
  }
  return codec.decode(std::move(body));
}

asio::awaitable<Result<std::string>> call_unary(http::Exchange& exchange, const Unary& call, Codec codec,
                                                Compression compression) {
  auto context = make_context(exchange.request());
  if (!context.ok()) co_return std::move(context).error();
  auto body = co_await exchange.read_whole_body(unary_limit);
  if (!body.ok()) co_return std::move(body).error();
  auto message = open_body(std::move(*body), codec, compression);
  if (!message.ok()) co_return std::move(message).error();
  auto answer = co_await call(std::move(*context), std::move(*message));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return codec.encode(std::move(*answer));
}

asio::awaitable<void> serve_unary(http::Exchange& exchange, const Unary& call, Codec codec) {
  const auto compression = compression_of(header(exchange.request(), "content-encoding"));
  if (!compression.ok()) {
    co_await respond_error(exchange, make_head(415, "Accept-Encoding", "gzip, identity"),
                           compression.error());
    co_return;
  }
  auto answer = co_await call_unary(exchange, call, codec, *compression);
  if (answer.ok()) {
    co_await respond(exchange, make_head(200, "Content-Type", codec.content_type(true)), std::move(*answer));
    co_return;
  }
  http::ResponseHead head;
  head.status = http_status(answer.error().code);
  co_await respond_error(exchange, std::move(head), std::move(answer).error());
}

/// A server stream's request is exactly one message. Its reader's buffers are gone when the stream begins.
asio::awaitable<Result<JsonObject>> receive_only(http::Exchange& exchange, Codec codec,
                                                 Compression compression) {
  BodyMessages source(exchange, codec, compression);
  auto message = co_await source.receive();
  if (!message.ok()) co_return std::move(message).error();
  if (!message->has_value())
    co_return make_error(ErrorCode::invalid_argument, "the request holds no message");
  const auto more = co_await source.receive();
  if (!more.ok()) co_return more.error();
  if (more->has_value())
    co_return make_error(ErrorCode::invalid_argument, "the request holds more than one message");
  co_return std::move(**message);
}

asio::awaitable<Result<void>> call_server_stream(http::Exchange& exchange, const ServerStream& call,
                                                 Codec codec, Compression compression,
                                                 ResponseMessages& responses) {
  auto context = make_context(exchange.request());
  if (!context.ok()) co_return std::move(context).error();
  auto message = co_await receive_only(exchange, codec, compression);
  if (!message.ok()) co_return std::move(message).error();
  co_return co_await call(std::move(*context), std::move(*message), responses);
}

asio::awaitable<Result<void>> call_client_stream(http::Exchange& exchange, const ClientStream& call,
                                                 Codec codec, Compression compression,
                                                 ResponseMessages& responses) {
  auto context = make_context(exchange.request());
  if (!context.ok()) co_return std::move(context).error();
  BodyMessages requests(exchange, codec, compression);
  auto answer = co_await call(std::move(*context), requests);
  if (!answer.ok()) co_return std::move(answer).error();
  responses.send_last(std::move(*answer));
  co_return Result<void>{};
}

asio::awaitable<void> serve_stream(http::Exchange& exchange, const ServerStream& server_stream,
                                   const ClientStream& client_stream, Codec codec) {
  ResponseMessages responses(exchange, codec);
  const auto compression = compression_of(header(exchange.request(), "connect-content-encoding"));
  Result<void> outcome;
  if (!compression.ok())
    outcome = compression.error();
  else if (server_stream)
    outcome = co_await call_server_stream(exchange, server_stream, codec, *compression, responses);
  else
    outcome = co_await call_client_stream(exchange, client_stream, codec, *compression, responses);
  co_await responses.end(std::move(outcome));
}

/// What a request of a method may say it is.
std::string accepted_types(std::string_view path, bool unary) {
  const std::string prefix = unary ? "application/" : "application/connect+";
  return protobuf::find_method(path) ? prefix + "json, " + prefix + "proto" : prefix + "json";
}

}  // namespace

std::chrono::milliseconds time_for_call(std::chrono::milliseconds timeout) {
  return timeout - std::min(timeout / 50, std::chrono::milliseconds(50));
}

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return 400;
    case ErrorCode::not_found: return 404;
    case ErrorCode::already_exists: return 409;
    case ErrorCode::conflict: return 409;
    case ErrorCode::unauthenticated: return 401;
    case ErrorCode::permission_denied: return 403;
    case ErrorCode::resource_exhausted: return 429;
    case ErrorCode::unavailable: return 503;
    case ErrorCode::deadline_exceeded: return 504;
    case ErrorCode::unimplemented: return 501;
    case ErrorCode::cancelled: return 499;
    case ErrorCode::corrupt:
    case ErrorCode::guest:
    case ErrorCode::internal: return 500;
  }
  return 500;
}

void Router::add_unary(std::string path, Unary call) { methods_[std::move(path)].unary = std::move(call); }

void Router::add_server_stream(std::string path, ServerStream call) {
  methods_[std::move(path)].server_stream = std::move(call);
}

void Router::add_client_stream(std::string path, ClientStream call) {
  methods_[std::move(path)].client_stream = std::move(call);
}

asio::awaitable<bool> Router::serve(http::Exchange& exchange) const {
  const http::RequestHead& head = exchange.request();
  const auto found = methods_.find(head.path());
  if (found == methods_.end()) co_return false;
  const Method& method = found->second;

  const bool unary = static_cast<bool>(method.unary);
  if (head.method != "POST") {
    const Error error = make_error(ErrorCode::unimplemented, "only POST is supported");
    co_await respond_error(exchange, make_head(405, "Allow", "POST"), error);
    co_return true;
  }
  const auto codec = Codec::choose(header(head, "content-type"), head.path(), unary);
  if (!codec) {
    const std::string accepted = accepted_types(head.path(), unary);
    const Error error =
        make_error(ErrorCode::invalid_argument, "the content type must be one of " + accepted);
    co_await respond_error(exchange, make_head(415, "Accept-Post", accepted), error);
    co_return true;
  }
  if (unary) {
    co_await serve_unary(exchange, method.unary, *codec);
    co_return true;
  }
  // A stream compresses its messages, never the body that carries them.
  const auto encoding = compression_of(header(head, "content-encoding"));
  if (!encoding.ok() || *encoding != Compression::identity) {
    const Error error =
        make_error(ErrorCode::unimplemented, "a stream's body cannot be compressed as a whole");
    co_await respond_error(exchange, make_head(415, "Accept-Encoding", "identity"), error);
    co_return true;
  }
  co_await serve_stream(exchange, method.server_stream, method.client_stream, *codec);
  co_return true;
}

}  // namespace cube::agent
