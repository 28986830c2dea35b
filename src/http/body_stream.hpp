// Bodies on a connection: BodyInput takes one off it, BodyOutput puts one on it, the same for requests and
// responses. Both must outlive the coroutines of theirs that run.
#pragma once

#include <memory>
#include <string>

#include "http/body.hpp"
#include "http/connection.hpp"

namespace cube::http {

class BodyInput {
 public:
  /// `malformed_code` is what bad framing means to the reader: the client's fault or the server's.
  BodyInput(std::shared_ptr<Connection> connection, Framing framing, ErrorCode malformed_code)
      : connection_(std::move(connection)), reader_(framing), malformed_code_(malformed_code) {}

  /// At least one byte, 0 at the body's end. `unavailable` if the peer goes before it.
  asio::awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer);

  /// The rest of the body; `resource_exhausted` as soon as it is known to exceed `limit`.
  asio::awaitable<Result<std::string>> read_whole(std::size_t limit);

  /// Throws away at most `limit` bytes until the deadline. True if the body's end was reached.
  asio::awaitable<bool> drain(std::size_t limit, SteadyTime deadline);

  bool complete() const { return reader_.complete(); }
  bool malformed() const { return reader_.malformed(); }
  std::uint64_t announced() const { return reader_.announced(); }
  bool exceeds(std::size_t limit) const { return announced() > limit; }

 private:
  std::shared_ptr<Connection> connection_;
  BodyReader reader_;
  ErrorCode malformed_code_;
};

class BodyOutput {
 public:
  explicit BodyOutput(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

  /// A message's head is on its way; its body follows. `discard`: what is written is counted, not sent
  /// (HEAD).
  void open(Framing framing, bool discard = false);

  asio::awaitable<Result<void>> write(asio::const_buffer piece);
  asio::awaitable<Result<void>> finish();

  /// Sends the head with as much of the body as is worth copying for the sake of one write, then the rest.
  asio::awaitable<Result<void>> send_whole(std::string head, std::string body);

  /// Sends bytes that are no body: a head.
  asio::awaitable<Result<void>> send(std::string text);

  bool opened() const { return state_ != State::unopened; }
  bool finished() const { return state_ == State::finished; }

 private:
  enum class State { unopened, open, finished, broken };

  asio::awaitable<Result<void>> write_chunks(asio::const_buffer piece);
  asio::awaitable<Result<void>> send_bytes(asio::const_buffer bytes);

  std::shared_ptr<Connection> connection_;
  State state_ = State::unopened;
  Framing framing_;  ///< the length is what is still to be written
  bool discard_ = false;
  std::string chunk_;  ///< kept for its capacity
};

}  // namespace cube::http
