#include "connect_stream.hpp"

#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include "gzip.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t header_size = 5;

std::uint32_t big_endian(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

http::ResponseHead response_head(const Codec& codec) {
  http::ResponseHead head;
  head.headers.add("Content-Type", codec.content_type(false));
  return head;
}

/// The protocol's name of the code; two of ours it does not have.
std::string_view connect_code(ErrorCode code) {
  if (code == ErrorCode::conflict) return "aborted";
  if (code == ErrorCode::guest) return "internal";
  return to_string(code);
}

}  // namespace

void EnvelopeParser::append(std::string_view bytes) {
  buffer_.erase(0, std::exchange(start_, 0));
  buffer_ += bytes;
}

Result<std::optional<Envelope>> EnvelopeParser::next() {
  const std::string_view rest = std::string_view(buffer_).substr(start_);
  if (rest.size() < header_size) return std::nullopt;
  const std::size_t length = big_endian(rest.substr(1, 4));
  if (length > envelope_limit)
    return make_error(ErrorCode::resource_exhausted, "message of " + std::to_string(length) +
                                                         " bytes exceeds the limit of " +
                                                         std::to_string(envelope_limit));
  if (rest.size() - header_size < length) return std::nullopt;
  start_ += header_size + length;
  return Envelope{static_cast<std::uint8_t>(rest[0]), std::string(rest.substr(header_size, length))};
}

std::string encode_envelope(std::uint8_t flags, std::string_view payload) {
  std::string envelope;
  envelope.reserve(header_size + payload.size());
  envelope += static_cast<char>(flags);
  for (int shift = 24; shift >= 0; shift -= 8) envelope += static_cast<char>(payload.size() >> shift & 0xff);
  envelope += payload;
  return envelope;
}

std::string error_json(const Error& error) {
  JsonWriter json;
  json.begin_object().key("code").value(connect_code(error.code));
  json.key("message").value(error.os_errno == 0 ? error.message : error.describe()).end_object();
  return json.take();
}

std::string end_stream_json(const Result<void>& outcome) {
  if (outcome.ok()) return "{}";
  return "{\"error\":" + error_json(outcome.error()) + "}";
}

Result<JsonObject> open_envelope(Envelope envelope, const Codec& codec, Compression compression) {
  if (envelope.flags & ~compressed_flag)
    return make_error(ErrorCode::invalid_argument,
                      "invalid envelope flags " + std::to_string(envelope.flags));
  const bool compressed = envelope.flags & compressed_flag;
  if (compressed && compression == Compression::identity)
    return make_error(ErrorCode::invalid_argument, "a compressed message without Connect-Content-Encoding");
  if (compressed && !envelope.payload.empty()) {
    auto payload = decompress(envelope.payload, envelope_limit);
    if (!payload.ok()) return std::move(payload).error();
    envelope.payload = std::move(*payload);
  }
  return codec.decode(std::move(envelope.payload));
}

asio::awaitable<Result<std::optional<JsonObject>>> BodyMessages::receive() {
  for (;;) {
    auto envelope = parser_.next();
    if (!envelope.ok()) co_return std::move(envelope).error();
    if (envelope->has_value()) {
      auto object = open_envelope(std::move(**envelope), codec_, compression_);
      if (!object.ok()) co_return std::move(object).error();
      co_return std::optional<JsonObject>(std::move(*object));
    }
    const Result<std::size_t> count = co_await exchange_.read_body(asio::buffer(piece_));
    if (!count.ok()) co_return count.error();
    if (*count == 0) {
      if (parser_.empty()) co_return std::optional<JsonObject>();
      co_return make_error(ErrorCode::invalid_argument, "the body ends inside a message");
    }
    parser_.append(std::string_view(piece_.data(), *count));
  }
}

ResponseMessages::ResponseMessages(http::Exchange& exchange, Codec codec)
    : exchange_(exchange),
      codec_(codec),
      idle_(exchange.executor(), asio::steady_timer::time_point::max()),
      gone_(std::make_shared<std::function<void()>>()) {}

ResponseMessages::~ResponseMessages() { *gone_ = nullptr; }

Result<std::string> ResponseMessages::envelope_of(std::string json) const {
  auto message = codec_.encode(std::move(json));
  if (!message.ok()) return std::move(message).error();
  return encode_envelope(0, *message);
}

asio::awaitable<Result<void>> ResponseMessages::send(std::string json) {
  auto envelope = envelope_of(std::move(json));
  if (!envelope.ok()) co_return std::move(envelope).error();
  co_return co_await write(std::move(*envelope), false);
}

asio::awaitable<Result<void>> ResponseMessages::write(std::string envelopes, bool last) {
  while (writing_) {
    asio::error_code ignored;
    co_await idle_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  if (failed_) co_return make_error(ErrorCode::cancelled, "the client is gone");
  writing_ = true;
  Result<void> written;
  const bool first = !std::exchange(begun_, true);
  if (first && last)
    written = co_await exchange_.respond(response_head(codec_), std::move(envelopes));
  else if (first)
    written = co_await exchange_.begin(response_head(codec_), asio::buffer(envelopes));
  else if (last)
    written = co_await exchange_.finish(asio::buffer(envelopes));
  else
    written = co_await exchange_.write(asio::buffer(envelopes));
  writing_ = false;
  failed_ = !written.ok();
  idle_.cancel_one();
  if (failed_) co_return make_error(ErrorCode::cancelled, "the client is gone");
  co_return Result<void>();
}

void ResponseMessages::on_client_gone(std::function<void()> callback) {
  *gone_ = std::move(callback);
  exchange_.on_client_gone([gone = gone_] {
    if (const auto call = std::exchange(*gone, nullptr)) call();
  });
}

asio::awaitable<void> ResponseMessages::end(Result<void> outcome) {
  *gone_ = nullptr;
  std::string envelopes;
  if (last_) {
    auto envelope = envelope_of(std::move(*last_));
    if (envelope.ok())
      envelopes = std::move(*envelope);
    else
      outcome = std::move(envelope).error();
  }
  envelopes += encode_envelope(end_stream_flag, end_stream_json(outcome));
  const Result<void> written = co_await write(std::move(envelopes), true);
  if (!written.ok()) co_return;  // the client is gone: nobody is left to be told
}

}  // namespace cube::agent
