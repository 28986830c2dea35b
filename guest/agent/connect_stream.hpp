// The streams of the Connect protocol: envelopes, and what reads and writes them on an exchange.
#pragma once

#include <asio/steady_timer.hpp>

#include "codec.hpp"
#include "rpc.hpp"

namespace cube::agent {

inline constexpr std::size_t envelope_limit = 4 << 20;  ///< bytes of one message
inline constexpr std::uint8_t compressed_flag = 0x01;
inline constexpr std::uint8_t end_stream_flag = 0x02;

struct Envelope {
  std::uint8_t flags = 0;
  std::string payload;
};

/// Finds envelopes in bytes that arrive in any pieces. Holds at most one envelope and one piece.
class EnvelopeParser {
 public:
  void append(std::string_view bytes);

  /// The next envelope, nothing if it has not all arrived; `resource_exhausted` if it announces more than the
  /// limit.
  Result<std::optional<Envelope>> next();

  /// True between envelopes.
  bool empty() const { return start_ == buffer_.size(); }

 private:
  std::string buffer_;
  std::size_t start_ = 0;
};

std::string encode_envelope(std::uint8_t flags, std::string_view payload);

/// {"code":"not_found","message":"…"}
std::string error_json(const Error& error);

/// The payload of the envelope that ends a stream: {} or {"error":{…}}.
std::string end_stream_json(const Result<void>& outcome);

/// The message in an envelope of a request. `invalid_argument` for flags a request cannot have.
Result<JsonObject> open_envelope(Envelope envelope, const Codec& codec, Compression compression);

/// Reads envelopes from the request's body as they arrive.
class BodyMessages : public MessageSource {
 public:
  BodyMessages(http::Exchange& exchange, Codec codec, Compression compression)
      : exchange_(exchange), codec_(codec), compression_(compression), piece_(4 << 10) {}
  asio::awaitable<Result<std::optional<JsonObject>>> receive() override;

 private:
  http::Exchange& exchange_;
  const Codec codec_;
  const Compression compression_;
  EnvelopeParser parser_;
  std::vector<char> piece_;  ///< small: what is touched here may be the next connection's buffer
};

/// Writes envelopes to the response, one after another, whoever sends. The response begins with the first of
/// them: clients that see it begin before they have sent their message take the request for answered and send
/// no more.
class ResponseMessages : public MessageSink {
 public:
  ResponseMessages(http::Exchange& exchange, Codec codec);
  ~ResponseMessages() override;

  asio::awaitable<Result<void>> send(std::string json) override;
  void send_last(std::string json) override { last_ = std::move(json); }
  void on_client_gone(std::function<void()> callback) override;

  /// Sends the last message, if there is one, and the end-of-stream envelope, and finishes the response: in
  /// one write.
  asio::awaitable<void> end(Result<void> outcome);

 private:
  Result<std::string> envelope_of(std::string json) const;
  asio::awaitable<Result<void>> write(std::string envelopes, bool last);

  http::Exchange& exchange_;
  const Codec codec_;
  asio::steady_timer idle_;  ///< never expires; cancelled one waiter at a time
  std::optional<std::string> last_;
  bool begun_ = false;
  bool writing_ = false;
  bool failed_ = false;
  std::shared_ptr<std::function<void()>> gone_;  ///< not called any more once the stream is over
};

}  // namespace cube::agent
