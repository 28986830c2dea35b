#include "http/http2_exchange.hpp"

#include <algorithm>
#include <array>
#include <asio/post.hpp>
#include <cstring>

#include "http/text.hpp"

namespace cube::http {
namespace {

constexpr std::size_t piece_size = 16 << 10;

Error too_large(std::size_t limit) {
  return make_error(ErrorCode::resource_exhausted,
                    "the body is larger than " + std::to_string(limit) + " bytes");
}

}  // namespace

Http2Exchange::Http2Exchange(std::shared_ptr<Http2Session> session, std::shared_ptr<Http2Stream> stream,
                             ParsedRequest request, std::chrono::seconds body_timeout)
    : session_(std::move(session)),
      stream_(std::move(stream)),
      request_(std::move(request)),
      body_timeout_(body_timeout),
      awaits_continue_(request_.expects_continue && !stream_->remote_ended) {
  if (request_.framing.kind == Framing::Kind::length) patience_ = Patience(body_timeout_);
}

Http2Exchange::~Http2Exchange() {
  stream_->client_gone = nullptr;
  stream_->pending = {};
}

Error Http2Exchange::gone() const {
  if (stream_->aborted) return make_error(ErrorCode::cancelled, "the exchange was aborted", remote_address());
  return make_error(ErrorCode::unavailable, "the client ended the request", remote_address());
}

// --- The request ---------------------------------------------------------------------------------

Result<void> Http2Exchange::answer_expectation() {
  if (!std::exchange(awaits_continue_, false) || started() || !stream_->usable()) return {};
  Http2Fields fields;
  fields.emplace_back(":status", "100");
  return session_->submit_interim_head(*stream_, fields);
}

asio::awaitable<Result<std::size_t>> Http2Exchange::read_body(asio::mutable_buffer buffer) {
  auto answered = answer_expectation();
  if (!answered.ok()) co_return std::move(answered).error();
  // Shared, as the handler may end while another coroutine reads.
  const auto stream = stream_;
  const auto session = session_;
  for (;;) {
    if (stream->aborted) co_return gone();
    const std::string_view unread = stream->unread();
    if (!unread.empty()) {
      if (buffer.size() == 0)
        co_return make_error(ErrorCode::invalid_argument, "a read into an empty buffer");
      const std::size_t count = std::min(unread.size(), buffer.size());
      std::memcpy(buffer.data(), unread.data(), count);
      stream->body_read += count;
      session->consume(*stream, count);
      patience_.received(count);
      co_return count;
    }
    if (stream->remote_ended) co_return std::size_t{0};
    if (stream->closed) co_return gone();
    if (patience_.exhausted())
      co_return make_error(ErrorCode::deadline_exceeded, "the body did not arrive in time", remote_address());
    co_await stream->input_changed.wait_until(patience_.begin_wait());
    patience_.end_wait();
  }
}

asio::awaitable<Result<std::string>> Http2Exchange::read_whole_body(std::size_t limit) {
  // A body that is refused for its announced length is not asked for.
  if (request_.framing.kind == Framing::Kind::length && request_.framing.length > limit)
    co_return too_large(limit);
  patience_ = Patience(body_timeout_);
  std::string text;
  std::array<char, piece_size> piece;
  for (;;) {
    auto count = co_await read_body(asio::buffer(piece));
    if (!count.ok()) co_return std::move(count).error();
    if (*count == 0) co_return text;
    if (*count > limit - text.size()) co_return too_large(limit);
    text.append(piece.data(), *count);
  }
}

// --- The response --------------------------------------------------------------------------------

Result<void> Http2Exchange::open(const ResponseHead& head, bool without_body) {
  if (started()) return make_error(ErrorCode::conflict, "the response has started already");
  if (head.status < 200 || head.status > 599)
    return make_error(ErrorCode::invalid_argument, "not a final status: " + std::to_string(head.status));
  CUBE_TRY(check_headers(head.headers));
  if (!stream_->usable()) return gone();
  bodiless_ = without_body;
  CUBE_TRY(session_->submit_head(*stream_, make_response_fields(head), without_body));
  state_ = State::open;
  return {};
}

asio::awaitable<Result<void>> Http2Exchange::respond(ResponseHead head, std::string body) {
  if ((head.status == 204 || head.status == 304) && !body.empty())
    co_return make_error(ErrorCode::invalid_argument, "a body with status " + std::to_string(head.status));
  // Without a body the length is a statement about another response, which only the handler can make.
  const bool answers_head = request_.head.method == "HEAD";
  const bool states_length = head.status == 304 || (answers_head && head.headers.get("Content-Length"));
  if (head.status == 204)
    head.headers.remove("Content-Length");
  else if (!states_length)
    head.headers.set("Content-Length", std::to_string(body.size()));
  auto opened = open(head, body.empty() || never_has_body(head.status));
  if (!opened.ok()) co_return opened;
  co_return co_await send(asio::buffer(body), true);
}

asio::awaitable<Result<void>> Http2Exchange::begin(ResponseHead head, asio::const_buffer first) {
  const auto length = head.headers.get("Content-Length");
  const auto number = length ? parse_decimal(*length) : std::nullopt;
  if (length && !number) co_return make_error(ErrorCode::invalid_argument, "malformed Content-Length");
  const bool without_body = never_has_body(head.status);
  if (head.status == 204)
    head.headers.remove("Content-Length");
  else if (!without_body)
    remaining_ = number;
  // The connection's writer has its turn later: head and piece are one write.
  auto opened = open(head, without_body);
  if (!opened.ok() || first.size() == 0) co_return opened;
  co_return co_await write(first);
}

/// Returns when all of the piece, and with the last one its end, was handed to the connection.
asio::awaitable<Result<void>> Http2Exchange::send(asio::const_buffer piece, bool last) {
  const auto stream = stream_;
  while (stream->pending.size() > 0 && stream->usable()) co_await stream->output_changed.wait();
  if (!bodiless_ && stream->usable()) {
    stream->pending = piece;
    stream->last_pending = last;
    session_->resume(*stream);
  }
  while (stream->usable() && !stream->whole && (last || stream->pending.size() > 0))
    co_await stream->output_changed.wait();
  if (!stream->whole && !stream->usable()) {
    state_ = State::broken;
    co_return gone();
  }
  if (last) state_ = State::finished;
  co_return Result<void>{};
}

Result<void> Http2Exchange::check_open() const {
  if (state_ == State::broken) return gone();
  if (state_ != State::open) return make_error(ErrorCode::conflict, "no message is being written");
  return {};
}

/// So much of the body is about to be sent.
Result<void> Http2Exchange::count(std::size_t size) {
  if (remaining_ && size > *remaining_)
    return make_error(ErrorCode::invalid_argument, "the body is longer than its Content-Length");
  if (remaining_) *remaining_ -= size;
  if (size > 0 && bodiless_ && request_.head.method != "HEAD")
    return make_error(ErrorCode::invalid_argument, "the message has no body");
  return {};
}

asio::awaitable<Result<void>> Http2Exchange::write(asio::const_buffer piece) {
  auto checked = check_open();
  if (checked.ok()) checked = count(piece.size());
  if (!checked.ok() || piece.size() == 0 || bodiless_) co_return checked;
  co_return co_await send(piece, false);
}

// What is in frames cannot be moved as it comes.
asio::awaitable<Result<std::uint64_t>> Http2Exchange::splice(std::shared_ptr<StreamSocket>, std::uint64_t) {
  co_return std::uint64_t{0};
}

asio::awaitable<Result<void>> Http2Exchange::finish(asio::const_buffer last) {
  if (state_ == State::finished && last.size() == 0) co_return Result<void>{};
  auto checked = check_open();
  if (checked.ok()) checked = count(last.size());
  if (!checked.ok()) co_return checked;
  if (remaining_ && *remaining_ > 0) {
    state_ = State::broken;
    co_return make_error(ErrorCode::invalid_argument, "the body is shorter than its Content-Length");
  }
  co_return co_await send(bodiless_ ? asio::const_buffer() : last, true);
}

void Http2Exchange::on_client_gone(std::function<void()> callback) {
  if (state_ == State::finished) return;
  stream_->client_gone = std::move(callback);
  if (!stream_->closed || !stream_->client_gone) return;
  // Posted, so that the caller is not re-entered; it may still take the callback back.
  asio::post(executor(), [stream = stream_] {
    if (auto callback = std::exchange(stream->client_gone, nullptr)) callback();
  });
}

void Http2Exchange::abort() {
  if (stream_->whole || std::exchange(stream_->aborted, true)) return;
  session_->reset(*stream_, NGHTTP2_INTERNAL_ERROR);
  stream_->pending = {};
  stream_->input_changed.notify();
  stream_->output_changed.notify();
}

asio::awaitable<Result<std::unique_ptr<Stream>>> Http2Exchange::upgrade(ResponseHead) {
  co_return make_error(ErrorCode::unimplemented, "a stream of HTTP/2 cannot become a raw connection");
}

}  // namespace cube::http
