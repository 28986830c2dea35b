#include "http/exchange.hpp"

#include "core/async.hpp"
#include "http/text.hpp"

namespace cube::http {
namespace {

// What a client has sent of a body nobody wanted is cheaper to read than a new connection, up to here.
constexpr std::size_t drain_limit = 256 << 10;
constexpr std::chrono::seconds drain_time{5};

}  // namespace

ServerExchange::ServerExchange(std::shared_ptr<Connection> connection, ParsedRequest request,
                               std::chrono::seconds body_timeout)
    : connection_(std::move(connection)),
      request_(std::move(request)),
      input_(connection_, request_.framing, ErrorCode::invalid_argument, body_timeout),
      output_(connection_),
      awaits_continue_(request_.expects_continue && !input_.complete()),
      keep_alive_(request_.keep_alive) {}

ServerExchange::~ServerExchange() { connection_->on_end(nullptr); }

asio::awaitable<Result<void>> ServerExchange::answer_expectation() {
  // After the response has started an interim one would be read as part of it.
  if (!std::exchange(awaits_continue_, false) || started()) co_return Result<void>{};
  static constexpr std::string_view interim = "HTTP/1.1 100 Continue\r\n\r\n";
  co_return co_await connection_->send(asio::buffer(interim));
}

asio::awaitable<Result<std::size_t>> ServerExchange::read_body(asio::mutable_buffer buffer) {
  auto answered = co_await answer_expectation();
  if (!answered.ok()) co_return std::move(answered).error();
  co_return co_await input_.read(buffer);
}

asio::awaitable<Result<std::string>> ServerExchange::read_whole_body(std::size_t limit) {
  // A body that is refused for its announced length is not asked for.
  if (!input_.exceeds(limit)) {
    auto answered = co_await answer_expectation();
    if (!answered.ok()) co_return std::move(answered).error();
  }
  co_return co_await input_.read_whole(limit);
}

Result<void> ServerExchange::check_start(const ResponseHead& head) const {
  if (started() || upgraded_) return make_error(ErrorCode::conflict, "the response has started already");
  if (head.status < 200 || head.status > 599)
    return make_error(ErrorCode::invalid_argument, "not a final status: " + std::to_string(head.status));
  return check_headers(head.headers);
}

// The framing is ours, and so is what becomes of the connection; a handler may only ask to close it.
void ServerExchange::set_connection_header(Headers& headers) {
  // The client waits to be asked for its body, or may send it anyway: the next request cannot be told from
  // it.
  const bool ambiguous = awaits_continue_ && !input_.complete();
  if (has_token(headers, "connection", "close") || ambiguous || input_.malformed() || input_.too_slow())
    keep_alive_ = false;
  headers.remove("Transfer-Encoding");
  headers.remove("Connection");
  if (!keep_alive_)
    headers.add("Connection", "close");
  else if (request_.http_1_0)
    headers.add("Connection", "keep-alive");
}

asio::awaitable<Result<void>> ServerExchange::respond(ResponseHead head, std::string body) {
  auto checked = check_start(head);
  if (!checked.ok()) co_return checked;
  if (has_no_body(head.status) && !body.empty())
    co_return make_error(ErrorCode::invalid_argument, "a body with status " + std::to_string(head.status));

  // Without a body the length is a statement about another response, which only the handler can make.
  const bool states_length = head.status == 304 || (answers_head() && head.headers.get("Content-Length"));
  if (head.status == 204)
    head.headers.remove("Content-Length");
  else if (!states_length)
    head.headers.set("Content-Length", std::to_string(body.size()));
  if (answers_head()) body.clear();
  if (input_.exceeds(drain_limit)) keep_alive_ = false;
  set_connection_header(head.headers);

  co_return co_await output_.send_whole(write_response_head(head), std::move(body));
}

// Not a coroutine, like what it calls: see BodyOutput.
asio::awaitable<Result<void>> ServerExchange::begin(ResponseHead head, asio::const_buffer first) {
  auto checked = check_start(head);
  if (!checked.ok()) return ready(std::move(checked));
  Framing framing;
  const auto length = head.headers.get("Content-Length");
  const auto number = length ? parse_decimal(*length) : std::nullopt;
  if (length && !number)
    return ready<Result<void>>(make_error(ErrorCode::invalid_argument, "malformed Content-Length"));
  if (has_no_body(head.status)) {
    if (head.status == 204) head.headers.remove("Content-Length");
  } else if (number) {
    framing = {Framing::Kind::length, *number};
  } else if (request_.http_1_0) {
    framing.kind = Framing::Kind::until_end;
    keep_alive_ = false;
  } else {
    framing.kind = Framing::Kind::chunked;
  }
  set_connection_header(head.headers);
  if (framing.kind == Framing::Kind::chunked) head.headers.add("Transfer-Encoding", "chunked");

  return output_.begin(write_response_head(head), framing, first, answers_head());
}

asio::awaitable<Result<void>> ServerExchange::write(asio::const_buffer piece) { return output_.write(piece); }

asio::awaitable<Result<void>> ServerExchange::finish(asio::const_buffer last) { return output_.finish(last); }

void ServerExchange::on_client_gone(std::function<void()> callback) {
  client_gone_callback_ = std::move(callback);
  if (finished() || upgraded_) return;
  connection_->on_end([this] {
    if (!finished() && !upgraded_) client_gone_callback_();
  });
}

asio::awaitable<Result<std::unique_ptr<Stream>>> ServerExchange::upgrade(ResponseHead head) {
  if (started() || upgraded_) co_return make_error(ErrorCode::conflict, "the response has started already");
  const bool switches = head.status == 101 || (head.status == 200 && request_.head.method == "CONNECT");
  if (!switches) co_return make_error(ErrorCode::invalid_argument, "an upgrade is 101, or 200 to CONNECT");
  if (!input_.complete()) co_return make_error(ErrorCode::invalid_argument, "an upgrade with an unread body");
  auto checked = check_headers(head.headers);
  if (!checked.ok()) co_return std::move(checked).error();
  head.headers.remove("Transfer-Encoding");
  head.headers.remove("Content-Length");

  const Framing no_body;
  auto sent = co_await output_.begin(write_response_head(head), no_body);
  if (!sent.ok()) co_return std::move(sent).error();
  upgraded_ = true;
  connection_->on_end(nullptr);
  co_return make_raw_stream(connection_);
}

bool ServerExchange::keeps_connection() const { return finished() && keep_alive_ && !connection_->closed(); }

asio::awaitable<bool> ServerExchange::drain() {
  return input_.drain(drain_limit, std::chrono::steady_clock::now() + drain_time);
}

}  // namespace cube::http
