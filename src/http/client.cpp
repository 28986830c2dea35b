#include <asio/this_coro.hpp>
#include <cube/http.hpp>

#include "http/body_stream.hpp"
#include "http/head.hpp"
#include "http/text.hpp"

namespace cube::http {
namespace {

constexpr int interim_responses_limit = 32;

Result<Framing> request_framing(const Headers& headers) {
  const auto length = headers.get("Content-Length");
  const auto coding = headers.get("Transfer-Encoding");
  if (coding && (length || !same_ignoring_case(*coding, "chunked")))
    return make_error(ErrorCode::invalid_argument, "a request's body is framed by a length or chunked");
  if (coding) return Framing{Framing::Kind::chunked, 0};
  if (!length) return Framing{};
  const auto number = parse_decimal(*length);
  if (!number) return make_error(ErrorCode::invalid_argument, "malformed Content-Length");
  return Framing{Framing::Kind::length, *number};
}

Result<void> check_request(const RequestHead& head) {
  const bool visible = std::ranges::all_of(head.target, [](char c) { return c > 0x20 && c < 0x7f; });
  if (!is_token(head.method)) return make_error(ErrorCode::invalid_argument, "malformed method", head.method);
  if (head.target.empty() || !visible)
    return make_error(ErrorCode::invalid_argument, "malformed request target", head.target);
  return check_headers(head.headers);
}

bool usually_has_body(std::string_view method) {
  return method == "POST" || method == "PUT" || method == "PATCH";
}

}  // namespace

struct ClientConnection::Impl {
  Impl(std::unique_ptr<Stream> raw, Limits bounds) : stream(std::move(raw)), limits(bounds) {}

  /// What exists once the connection has met its event loop, which is at the first request.
  struct Wire {
    explicit Wire(std::shared_ptr<Connection> established)
        : connection(std::move(established)),
          output(connection),
          input(connection, Framing{}, ErrorCode::unavailable) {}
    std::shared_ptr<Connection> connection;
    BodyOutput output;
    BodyInput input;
  };

  // The coroutines share this: the connection's owner may go while they wait.
  using Self = std::shared_ptr<Impl>;
  static asio::awaitable<Result<void>> begin(Self self, RequestHead head, asio::const_buffer first);
  static asio::awaitable<Result<void>> send_whole(Self self, RequestHead head, std::string body);
  static asio::awaitable<Result<void>> write(Self self, asio::const_buffer piece);
  static asio::awaitable<Result<void>> finish(Self self, asio::const_buffer last);
  static asio::awaitable<Result<ResponseHead>> read_head(Self self);
  static asio::awaitable<Result<std::size_t>> read_body(Self self, asio::mutable_buffer buffer);
  static asio::awaitable<Result<std::string>> read_whole_body(Self self, std::size_t limit);
  static asio::awaitable<Result<asio::const_buffer>> next_piece(Self self);
  static asio::awaitable<Result<void>> splice_body(Self self, Exchange& exchange);

  /// Checks a request's head and makes the connection ready to send it.
  Result<Framing> prepare(RequestHead& head, asio::any_io_executor executor);

  struct ExpectedHead {
    HeadCollector collector;
    /// The server may think as long as it likes, but not trickle.
    SteadyTime deadline = SteadyTime::max();
    int interim = 0;  ///< responses that came before it
  };
  Result<std::optional<ResponseHead>> take_head(ExpectedHead& expected);
  bool reusable() const;
  void close();

  std::unique_ptr<Stream> stream;  ///< until the first request
  Limits limits;
  std::unique_ptr<Wire> wire;
  bool released = false;
  bool closed = false;
  bool answers_head = false;
  bool response_due = false;  ///< a request went out, the head of its response has not come
  bool keep_alive = true;
};

namespace {

Error no_request() { return make_error(ErrorCode::conflict, "no request is under way on this connection"); }

}  // namespace

Result<Framing> ClientConnection::Impl::prepare(RequestHead& head, asio::any_io_executor executor) {
  if (released || closed) return make_error(ErrorCode::cancelled, "the connection was closed");
  CUBE_TRY(check_request(head));
  auto framing = request_framing(head.headers);
  if (!framing.ok()) return framing;
  if (!wire) {
    auto connection = std::make_shared<Connection>(std::move(executor), std::move(stream), "server");
    connection->start();
    wire = std::make_unique<Wire>(std::move(connection));
  } else if (!reusable()) {
    if (wire->connection->ended()) return wire->connection->end_error();
    return make_error(ErrorCode::conflict, "the connection is not free for another request");
  }
  // RFC 9112 section 3.2: Host is mandatory, and empty where the target has no authority.
  if (!head.headers.get("Host")) head.headers.add("Host", "");
  answers_head = head.method == "HEAD";
  response_due = true;
  return framing;
}

bool ClientConnection::Impl::reusable() const {
  if (released || closed) return false;
  if (!wire) return true;
  const Connection& connection = *wire->connection;
  return !response_due && keep_alive && wire->output.finished() && wire->input.complete() &&
         !connection.ended() && connection.input().empty();
}

void ClientConnection::Impl::close() {
  closed = true;
  if (wire && !released) wire->connection->close();
  if (stream) stream->close();
}

asio::awaitable<Result<void>> ClientConnection::Impl::begin(Self self, RequestHead head,
                                                            asio::const_buffer first) {
  const auto executor = co_await asio::this_coro::executor;
  auto framing = self->prepare(head, executor);
  if (!framing.ok()) co_return std::move(framing).error();
  BodyOutput& output = self->wire->output;
  co_return co_await output.begin(write_request_head(head), *framing, first);
}

asio::awaitable<Result<void>> ClientConnection::Impl::send_whole(Self self, RequestHead head,
                                                                 std::string body) {
  const auto executor = co_await asio::this_coro::executor;
  head.headers.remove("Transfer-Encoding");
  head.headers.remove("Content-Length");
  if (!body.empty() || usually_has_body(head.method))
    head.headers.add("Content-Length", std::to_string(body.size()));
  auto framing = self->prepare(head, executor);
  if (!framing.ok()) co_return std::move(framing).error();
  co_return co_await self->wire->output.send_whole(write_request_head(head), std::move(body));
}

asio::awaitable<Result<void>> ClientConnection::Impl::write(Self self, asio::const_buffer piece) {
  if (!self->wire) co_return no_request();
  co_return co_await self->wire->output.write(piece);
}

asio::awaitable<Result<void>> ClientConnection::Impl::finish(Self self, asio::const_buffer last) {
  if (!self->wire) co_return no_request();
  co_return co_await self->wire->output.finish(last);
}

/// What is here of the head, or nothing yet. Skips interim responses.
Result<std::optional<ResponseHead>> ClientConnection::Impl::take_head(ExpectedHead& expected) {
  const Connection& connection = *wire->connection;
  while (!connection.closed() && !connection.input().empty()) {
    HeadCollector& collector = expected.collector;
    const bool was_started = collector.started();
    std::size_t consumed = 0;
    const HeadCollector::State state = collector.feed(connection.input(), consumed);
    wire->connection->consume(consumed);
    if (state == HeadCollector::State::more) {
      if (!was_started && collector.started())
        expected.deadline = std::chrono::steady_clock::now() + limits.head_timeout;
      continue;
    }
    if (state != HeadCollector::State::complete)
      return make_error(ErrorCode::unavailable, "the response's head is malformed or too large");
    auto response = parse_response_head(collector.text(), limits, answers_head);
    if (!response.ok()) return std::move(response).error();
    const int status = response->head.status;
    if (status < 200 && status != 101) {
      if (++expected.interim == interim_responses_limit)
        return make_error(ErrorCode::unavailable, "too many interim responses");
      expected.collector = HeadCollector(limits.head_bytes);
      expected.deadline = SteadyTime::max();
      continue;
    }
    response_due = false;
    keep_alive = response->keep_alive && status != 101;
    wire->input = BodyInput(wire->connection, response->framing, ErrorCode::unavailable);
    return std::optional(std::move(response->head));
  }
  if (connection.closed() || connection.ended()) return connection.end_error();
  if (expected.deadline != SteadyTime::max() && std::chrono::steady_clock::now() >= expected.deadline)
    return make_error(ErrorCode::deadline_exceeded, "the response's head did not arrive in time");
  return std::optional<ResponseHead>();
}

asio::awaitable<Result<ResponseHead>> ClientConnection::Impl::read_head(Self self) {
  if (!self->wire || !self->response_due) co_return no_request();
  const auto connection = self->wire->connection;
  ExpectedHead expected{HeadCollector(self->limits.head_bytes)};
  for (;;) {
    auto head = self->take_head(expected);
    if (!head.ok()) {
      self->keep_alive = false;
      co_return std::move(head).error();
    }
    if (*head) co_return std::move(**head);
    co_await connection->wait_for_input(expected.deadline);
  }
}

asio::awaitable<Result<std::size_t>> ClientConnection::Impl::read_body(Self self,
                                                                       asio::mutable_buffer buffer) {
  if (!self->wire || self->response_due) co_return no_request();
  co_return co_await self->wire->input.read(buffer);
}

asio::awaitable<Result<std::string>> ClientConnection::Impl::read_whole_body(Self self, std::size_t limit) {
  if (!self->wire || self->response_due) co_return no_request();
  co_return co_await self->wire->input.read_whole(limit);
}

asio::awaitable<Result<asio::const_buffer>> ClientConnection::Impl::next_piece(Self self) {
  if (!self->wire || self->response_due) co_return no_request();
  co_return co_await self->wire->input.next_piece();
}

asio::awaitable<Result<void>> ClientConnection::Impl::splice_body(Self self, Exchange& exchange) {
  if (!self->wire || self->response_due) co_return no_request();
  co_return co_await self->wire->input.splice_to(exchange);
}

ClientConnection::ClientConnection(std::unique_ptr<Stream> stream, Limits limits)
    : impl_(std::make_shared<Impl>(std::move(stream), limits)) {}

ClientConnection::~ClientConnection() { close(); }

ClientConnection::ClientConnection(ClientConnection&&) noexcept = default;

ClientConnection& ClientConnection::operator=(ClientConnection&& other) noexcept {
  if (this == &other) return *this;
  close();
  impl_ = std::move(other.impl_);
  return *this;
}

asio::awaitable<Result<void>> ClientConnection::begin(RequestHead head, asio::const_buffer first) {
  return Impl::begin(impl_, std::move(head), first);
}

asio::awaitable<Result<void>> ClientConnection::write(asio::const_buffer piece) {
  return Impl::write(impl_, piece);
}

asio::awaitable<Result<void>> ClientConnection::finish(asio::const_buffer last) {
  return Impl::finish(impl_, last);
}

asio::awaitable<Result<ResponseHead>> ClientConnection::read_head() { return Impl::read_head(impl_); }

asio::awaitable<Result<std::size_t>> ClientConnection::read_body(asio::mutable_buffer buffer) {
  return Impl::read_body(impl_, buffer);
}

asio::awaitable<Result<std::string>> ClientConnection::read_whole_body(std::size_t limit) {
  return Impl::read_whole_body(impl_, limit);
}

asio::awaitable<Result<asio::const_buffer>> ClientConnection::next_piece() { return Impl::next_piece(impl_); }

Result<asio::const_buffer> ClientConnection::piece_here() {
  if (!impl_->wire || impl_->response_due) return no_request();
  return impl_->wire->input.piece_here();
}

void ClientConnection::give_back_piece() {
  if (impl_->wire) impl_->wire->input.give_back_piece();
}

asio::awaitable<Result<void>> ClientConnection::splice_body(Exchange& exchange) {
  return Impl::splice_body(impl_, exchange);
}

bool ClientConnection::body_ended() const {
  return impl_->wire && !impl_->response_due && impl_->wire->input.complete();
}

bool ClientConnection::reusable() const { return impl_ && impl_->reusable(); }

std::unique_ptr<Stream> ClientConnection::release() {
  impl_->released = true;
  if (!impl_->wire) return std::move(impl_->stream);
  return make_raw_stream(impl_->wire->connection);
}

void ClientConnection::close() {
  if (impl_) impl_->close();
}

asio::awaitable<Result<Response>> request(ClientConnection& connection, RequestHead head, std::string body,
                                          std::size_t response_limit) {
  const auto impl = connection.impl_;
  auto sent = co_await ClientConnection::Impl::send_whole(impl, std::move(head), std::move(body));
  // A server that refuses a body may answer and close before it has read it.
  if (!sent.ok() && (!impl->response_due || sent.error().code != ErrorCode::unavailable))
    co_return std::move(sent).error();
  auto answer = co_await ClientConnection::Impl::read_head(impl);
  if (!answer.ok()) co_return std::move(answer).error();
  auto text = co_await ClientConnection::Impl::read_whole_body(impl, response_limit);
  if (!text.ok()) co_return std::move(text).error();
  co_return Response{answer->status, std::move(answer->headers), std::move(*text)};
}

}  // namespace cube::http
