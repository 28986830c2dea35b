#include "http/body_stream.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace cube::http {
namespace {

constexpr std::size_t chunk_capacity = 64 << 10;  // of data; larger pieces become several chunks
constexpr std::size_t one_write_limit = 64 << 10;
constexpr std::size_t growth_floor = 4 << 10;
constexpr std::size_t announced_growth = 64 << 10;  // believed of an announced length before bytes came

void make_chunk(std::string& chunk, std::string_view data) {
  std::array<char, 16> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), data.size(), 16).ptr;
  chunk.assign(digits.data(), end);
  chunk.append("\r\n").append(data).append("\r\n");
}

}  // namespace

asio::awaitable<Result<std::size_t>> BodyInput::read(asio::mutable_buffer buffer) {
  const auto connection = connection_;
  while (!reader_.complete()) {
    if (reader_.malformed())
      co_return make_error(malformed_code_, "malformed chunked body", connection->remote());
    if (buffer.size() == 0) co_return make_error(ErrorCode::invalid_argument, "a read into an empty buffer");
    if (connection->closed()) co_return connection->end_error();
    const std::string_view input = connection->input();
    if (!input.empty()) {
      const BodyReader::Step step = reader_.read(input, buffer);
      connection->consume(step.consumed);
      if (step.produced > 0) co_return step.produced;
      continue;
    }
    if (!connection->ended()) {
      co_await connection->wait_for_input();
      continue;
    }
    if (!reader_.end_of_stream())
      co_return make_error(ErrorCode::unavailable, "the peer closed the connection within a body",
                           connection->remote());
  }
  co_return std::size_t{0};
}

asio::awaitable<Result<std::string>> BodyInput::read_whole(std::size_t limit) {
  limit = std::min(limit, std::numeric_limits<std::size_t>::max() / 2);
  std::string text;
  std::size_t used = 0;
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

void BodyOutput::open(Framing framing, bool discard) {
  framing_ = framing;
  discard_ = discard;
  state_ = State::open;
}

asio::awaitable<Result<void>> BodyOutput::send_bytes(asio::const_buffer bytes) {
  auto sent = co_await connection_->send(bytes);
  if (!sent.ok()) state_ = State::broken;
  co_return sent;
}

asio::awaitable<Result<void>> BodyOutput::send(std::string text) {
  co_return co_await send_bytes(asio::buffer(text));
}

asio::awaitable<Result<void>> BodyOutput::write(asio::const_buffer piece) {
  if (state_ == State::broken)
    co_return make_error(ErrorCode::unavailable, "the connection broke", connection_->remote());
  if (state_ != State::open) co_return make_error(ErrorCode::conflict, "no message is being written");
  if (piece.size() == 0) co_return Result<void>{};  // as a chunk it would end the body
  if (framing_.kind == Framing::Kind::length) {
    if (piece.size() > framing_.length)
      co_return make_error(ErrorCode::invalid_argument, "the body is longer than its Content-Length");
    framing_.length -= piece.size();
  }
  if (discard_) co_return Result<void>{};
  if (framing_.kind == Framing::Kind::none)
    co_return make_error(ErrorCode::invalid_argument, "the message has no body");
  if (framing_.kind == Framing::Kind::chunked) co_return co_await write_chunks(piece);
  co_return co_await send_bytes(piece);
}

// A stream takes one buffer at a time: framing and data are joined here, so that a piece is one write.
asio::awaitable<Result<void>> BodyOutput::write_chunks(asio::const_buffer piece) {
  std::string chunk = std::exchange(chunk_, {});
  while (piece.size() > 0) {
    const std::size_t count = std::min(piece.size(), chunk_capacity);
    make_chunk(chunk, {static_cast<const char*>(piece.data()), count});
    auto sent = co_await send_bytes(asio::buffer(chunk));
    if (!sent.ok()) co_return sent;
    piece += count;
  }
  chunk_ = std::move(chunk);
  co_return Result<void>{};
}

asio::awaitable<Result<void>> BodyOutput::finish() {
  if (state_ == State::finished) co_return Result<void>{};
  if (state_ == State::broken)
    co_return make_error(ErrorCode::unavailable, "the connection broke", connection_->remote());
  if (state_ != State::open) co_return make_error(ErrorCode::conflict, "no message is being written");
  if (framing_.kind == Framing::Kind::length && framing_.length > 0 && !discard_) {
    state_ = State::broken;
    co_return make_error(ErrorCode::invalid_argument, "the body is shorter than its Content-Length");
  }
  state_ = State::finished;
  if (framing_.kind == Framing::Kind::chunked && !discard_)
    co_return co_await send_bytes(asio::buffer("0\r\n\r\n", 5));
  co_return Result<void>{};
}

asio::awaitable<Result<void>> BodyOutput::send_whole(std::string head, std::string body) {
  open({Framing::Kind::length, body.size()});
  const bool joined = body.size() <= one_write_limit;
  if (joined) head.append(body);
  auto sent = co_await send_bytes(asio::buffer(head));
  if (sent.ok() && !joined) sent = co_await send_bytes(asio::buffer(body));
  if (sent.ok()) state_ = State::finished;
  co_return sent;
}

}  // namespace cube::http
