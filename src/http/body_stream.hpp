// Bodies on a connection: BodyInput takes one off it, BodyOutput puts one on it, the same for requests and
// responses. Both must outlive the coroutines of theirs that run.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "http/body.hpp"
#include "http/connection.hpp"
#include "http/patience.hpp"

namespace cube::http {

class BodyInput {
 public:
  /// `malformed_code` is what bad framing means to the reader: the client's fault or the server's. `timeout`
  /// as in Limits; without one the peer may take its time.
  BodyInput(std::shared_ptr<Connection> connection, Framing framing, ErrorCode malformed_code,
            std::optional<std::chrono::seconds> timeout = {});

  /// At least one byte, 0 at the body's end. `unavailable` if the peer goes before it, `deadline_exceeded` if
  /// it is too slow.
  asio::awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer);

  /// Pieces for whoever passes them on, see ClientConnection.
  asio::awaitable<Result<asio::const_buffer>> next_piece();
  Result<asio::const_buffer> piece_here();
  void give_back_piece() { connection_->consume(std::exchange(lent_, 0)); }
  asio::awaitable<Result<void>> splice_to(Exchange& exchange);

  /// The rest of the body; `resource_exhausted` as soon as it is known to exceed `limit`.
  asio::awaitable<Result<std::string>> read_whole(std::size_t limit);

  /// Throws away at most `limit` bytes until the deadline. True if the body's end was reached.
  asio::awaitable<bool> drain(std::size_t limit, SteadyTime deadline);

  bool complete() const { return reader_.complete(); }
  bool malformed() const { return reader_.malformed(); }
  bool too_slow() const { return patience_.exhausted(); }
  std::uint64_t announced() const { return reader_.announced(); }
  bool exceeds(std::size_t limit) const { return announced() > limit; }

 private:
  Result<std::size_t> read_here(asio::mutable_buffer buffer);

  std::shared_ptr<Connection> connection_;
  BodyReader reader_;
  ErrorCode malformed_code_;
  std::optional<std::chrono::seconds> timeout_;
  Patience patience_;
  std::size_t lent_ = 0;  ///< of the connection's input: the piece that was not given back
  std::string unframed_;  ///< the piece that had to be copied
};

class BodyOutput {
 public:
  explicit BodyOutput(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

  /// Sends a message's head, with the first piece of its body if there is one. `discard`: the body is
  /// counted, not sent (HEAD).
  asio::awaitable<Result<void>> begin(std::string head, Framing framing, asio::const_buffer first = {},
                                      bool discard = false);
  asio::awaitable<Result<void>> write(asio::const_buffer piece);
  asio::awaitable<Result<void>> finish(asio::const_buffer last = {});
  asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from, std::uint64_t most);

  asio::awaitable<Result<void>> send_whole(std::string head, std::string body);

  bool opened() const { return state_ != State::unopened; }
  bool finished() const { return state_ == State::finished; }

 private:
  enum class State { unopened, open, finished, broken };

  Result<void> check_open() const;
  Result<void> count(std::size_t size);
  asio::awaitable<Result<void>> send_piece(asio::const_buffer piece, bool last);

  std::shared_ptr<Connection> connection_;
  State state_ = State::unopened;
  Framing framing_;  ///< the length is what is still to be written
  bool discard_ = false;
  std::string batch_;  ///< what goes out before the next piece, in one write with it; kept for its capacity
};

}  // namespace cube::http
