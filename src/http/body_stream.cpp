#include "http/body_stream.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include "core/async.hpp"
#include "http/splice.hpp"

namespace cube::http {
namespace {

// What is copied for the sake of one write; of larger pieces the rest follows by itself, or in more chunks.
constexpr std::size_t joined_limit = 64 << 10;
constexpr std::size_t growth_floor = 4 << 10;
constexpr std::size_t announced_growth = 64 << 10;  // believed of an announced length before bytes came

void append_chunk(std::string& text, asio::const_buffer data) {
  std::array<char, 16> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), data.size(), 16).ptr;
  text.append(digits.data(), end).append("\r\n");
  text.append(static_cast<const char*>(data.data()), data.size()).append("\r\n");
}

}  // namespace

BodyInput::BodyInput(std::shared_ptr<Connection> connection, Framing framing, ErrorCode malformed_code,
                     std::optional<std::chrono::seconds> timeout)
    : connection_(std::move(connection)),
      reader_(framing),
      malformed_code_(malformed_code),
      timeout_(timeout) {
  if (timeout_ && framing.kind == Framing::Kind::length) patience_ = Patience(*timeout_);
}

/// Without waiting: 0 if nothing is here, or at the end.
Result<std::size_t> BodyInput::read_here(asio::mutable_buffer buffer) {
  while (!reader_.complete()) {
    if (reader_.malformed())
      return make_error(malformed_code_, "malformed chunked body", connection_->remote());
    if (buffer.size() == 0) return make_error(ErrorCode::invalid_argument, "a read into an empty buffer");
    if (connection_->closed()) return connection_->end_error();
    const std::string_view input = connection_->input();
    if (!input.empty()) {
      const BodyReader::Step step = reader_.read(input, buffer);
      connection_->consume(step.consumed);
      patience_.received(step.produced);
      if (step.produced > 0) return step.produced;
      continue;
    }
    if (too_slow())
      return make_error(ErrorCode::deadline_exceeded, "the body did not arrive in time",
                        connection_->remote());
    if (!connection_->ended()) break;
    if (!reader_.end_of_stream())
      return make_error(ErrorCode::unavailable, "the peer closed the connection within a body",
                        connection_->remote());
  }
  return std::size_t{0};
}

asio::awaitable<Result<std::size_t>> BodyInput::read(asio::mutable_buffer buffer) {
  const auto connection = connection_;
  for (;;) {
    auto count = read_here(buffer);
    if (!count.ok() || *count > 0 || complete()) co_return count;
    co_await connection->wait_for_input(patience_.begin_wait());
    patience_.end_wait();
  }
}

Result<asio::const_buffer> BodyInput::piece_here() {
  give_back_piece();
  const std::string_view input = connection_->input();
  if (!connection_->closed()) lent_ = reader_.take(input);
  if (lent_ > 0) return asio::const_buffer(input.data(), lent_);
  unframed_.resize(std::max<std::size_t>(input.size(), 1));
  const auto count = read_here(asio::buffer(unframed_));
  if (!count.ok()) return count.error();
  return asio::const_buffer(unframed_.data(), *count);
}

asio::awaitable<Result<asio::const_buffer>> BodyInput::next_piece() {
  const auto connection = connection_;
  for (;;) {
    auto piece = piece_here();
    if (!piece.ok() || piece->size() > 0 || complete()) co_return piece;
    co_await connection->wait_for_input();
  }
}

/// What was read ahead goes first; when nothing is, and nothing is being read, the rest is in the socket.
asio::awaitable<Result<void>> BodyInput::splice_to(Exchange& exchange) {
  const auto connection = connection_;
  const auto socket = connection->socket();
  if (!socket || announced() < least_spliced) co_return Result<void>{};
  connection->leave_in_socket(true);
  Result<void> sent;
  give_back_piece();
  while (sent.ok() && !complete() && (connection->reading() || !connection->input().empty())) {
    const auto piece = co_await next_piece();
    if (piece.ok())
      sent = co_await exchange.write(*piece);
    else
      sent = piece.error();
    give_back_piece();
  }
  if (sent.ok() && !complete()) {
    const auto moved = co_await exchange.splice(socket, announced());
    if (moved.ok())
      reader_.skip(*moved);
    else
      sent = moved.error();
  }
  connection->leave_in_socket(false);
  co_return sent;
}

asio::awaitable<Result<std::string>> BodyInput::read_whole(std::size_t limit) {
  limit = std::min(limit, std::numeric_limits<std::size_t>::max() / 2);
  std::string text;
  std::size_t used = 0;
  if (timeout_ && !complete()) patience_ = Patience(*timeout_);
  while (!complete()) {
    if (used > limit || exceeds(limit - used))
      co_return make_error(ErrorCode::resource_exhausted,
                           "the body is larger than " + std::to_string(limit) + " bytes");
    if (used == text.size()) {
      // An announced length is only believed as far as bytes back it. One byte more than the limit shows that
      // there is more.
      const std::size_t grown = std::max(used, growth_floor);
      const std::size_t believed =
          static_cast<std::size_t>(std::min<std::uint64_t>(announced(), std::max(used, announced_growth)));
      text.resize(std::min(used + (announced() > 0 ? believed : grown), limit + 1));
    }
    auto count = co_await read(asio::buffer(text.data() + used, text.size() - used));
    if (!count.ok()) co_return std::move(count).error();
    used += *count;
  }
  if (used > limit)
    co_return make_error(ErrorCode::resource_exhausted,
                         "the body is larger than " + std::to_string(limit) + " bytes");
  text.resize(used);
  co_return text;
}

asio::awaitable<bool> BodyInput::drain(std::size_t limit, SteadyTime deadline) {
  const auto connection = connection_;
  std::array<char, 1024> scratch;
  while (!complete() && !malformed() && !exceeds(limit) && !connection->closed()) {
    if (connection->input().empty()) {
      if (connection->ended() || std::chrono::steady_clock::now() >= deadline) co_return false;
      co_await connection->wait_for_input(deadline);
      continue;
    }
    const BodyReader::Step step = reader_.read(connection->input(), asio::buffer(scratch));
    connection->consume(step.consumed);
    limit -= std::min(limit, step.consumed);
    if (limit == 0 && !complete()) co_return false;
  }
  co_return complete();
}

Result<void> BodyOutput::check_open() const {
  if (state_ == State::broken)
    return make_error(ErrorCode::unavailable, "the connection broke", connection_->remote());
  if (state_ != State::open) return make_error(ErrorCode::conflict, "no message is being written");
  return {};
}

/// So much of the body is about to be sent. With the last of an announced length the message is finished.
Result<void> BodyOutput::count(std::size_t size) {
  if (framing_.kind == Framing::Kind::chunked || framing_.kind == Framing::Kind::until_end) return {};
  if (framing_.kind == Framing::Kind::none && size > 0 && !discard_)
    return make_error(ErrorCode::invalid_argument, "the message has no body");
  if (framing_.kind == Framing::Kind::length && size > framing_.length)
    return make_error(ErrorCode::invalid_argument, "the body is longer than its Content-Length");
  if (framing_.kind == Framing::Kind::length) framing_.length -= size;
  if (framing_.length == 0 && !discard_) state_ = State::finished;
  return {};
}

// What has nothing to wait for, in the functions from here on, is no coroutine: every request passes through
// them several times.

asio::awaitable<Result<void>> BodyOutput::begin(std::string head, Framing framing, asio::const_buffer first,
                                                bool discard) {
  framing_ = framing;
  discard_ = discard;
  state_ = State::open;
  auto counted = count(first.size());
  if (!counted.ok()) {
    state_ = State::unopened;
    return ready<Result<void>>(std::move(counted));
  }
  batch_ = std::move(head);
  return send_piece(first, false);
}

asio::awaitable<Result<void>> BodyOutput::write(asio::const_buffer piece) {
  auto checked = check_open();
  if (checked.ok()) checked = count(piece.size());
  if (!checked.ok()) return ready<Result<void>>(std::move(checked));
  return send_piece(piece, false);
}

asio::awaitable<Result<void>> BodyOutput::finish(asio::const_buffer last) {
  if (state_ == State::finished && last.size() == 0) return ready<Result<void>>({});
  auto checked = check_open();
  if (checked.ok()) checked = count(last.size());
  if (!checked.ok()) return ready<Result<void>>(std::move(checked));
  if (framing_.kind == Framing::Kind::length && framing_.length > 0 && !discard_) {
    state_ = State::broken;
    return ready<Result<void>>(
        make_error(ErrorCode::invalid_argument, "the body is shorter than its Content-Length"));
  }
  state_ = State::finished;
  return send_piece(last, true);
}

asio::awaitable<Result<std::uint64_t>> BodyOutput::splice(std::shared_ptr<StreamSocket> from,
                                                          std::uint64_t most) {
  const auto checked = check_open();
  if (!checked.ok()) co_return checked.error();
  if (framing_.kind != Framing::Kind::length || discard_) co_return std::uint64_t{0};
  auto moved = co_await connection_->splice(std::move(from), std::min(most, framing_.length));
  if (moved.ok())
    static_cast<void>(count(*moved));  // no more than is still to be written
  else
    state_ = State::broken;
  co_return moved;
}

// A stream takes one buffer at a time: what belongs together is joined here, so that it is one write. A large
// piece without framing is sent from where it is.
asio::awaitable<Result<void>> BodyOutput::send_piece(asio::const_buffer piece, bool last) {
  std::string batch = std::exchange(batch_, {});  // others may write while this one waits for its turn
  const bool chunked = framing_.kind == Framing::Kind::chunked && !discard_;
  if (discard_) piece = {};
  Result<void> sent;
  while (chunked && piece.size() > 0 && sent.ok()) {
    append_chunk(batch, asio::buffer(piece, joined_limit));
    piece += joined_limit;
    if (piece.size() == 0) break;
    sent = co_await connection_->send(asio::buffer(batch));
    batch.clear();
  }
  if (chunked && last) batch += "0\r\n\r\n";
  if (!batch.empty() && piece.size() <= joined_limit) {
    batch.append(static_cast<const char*>(piece.data()), piece.size());
    piece = {};
  }
  asio::const_buffer rest = batch.empty() ? std::exchange(piece, {}) : asio::buffer(batch);
  if (sent.ok()) rest += connection_->send_now(rest);
  if (sent.ok() && rest.size() > 0) sent = co_await connection_->send(rest);
  if (sent.ok() && piece.size() > 0) sent = co_await connection_->send(piece);
  if (!sent.ok()) state_ = State::broken;
  batch.clear();
  batch_ = std::move(batch);
  co_return sent;
}

asio::awaitable<Result<void>> BodyOutput::send_whole(std::string head, std::string body) {
  const Framing framing{Framing::Kind::length, body.size()};
  co_return co_await begin(std::move(head), framing, asio::buffer(body));
}

}  // namespace cube::http
