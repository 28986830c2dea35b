#include "client.hpp"

#include <simdjson.h>

#include <cstring>

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::chrono::seconds connect_timeout{5};
constexpr std::size_t answer_limit = 64 << 20;
constexpr std::size_t reason_limit = 1 << 20;
constexpr std::size_t kept_connections = 4;

std::string why_unreachable(const Error& error) {
  if (error.code == ErrorCode::invalid_argument) return "the host must be an IP address or localhost";
  const char* reason = error.os_errno == 0 ? nullptr : ::strerrordesc_np(error.os_errno);
  return (reason ? std::string(reason) : error.message) + "; is cubed running there? --api-url names another";
}

/// The one place that knows how a daemon is reached.
awaitable<Result<std::unique_ptr<Stream>>> connect_to(const Target& target) {
  auto stream = co_await http::connect_tcp(target.address.host, target.address.port, connect_timeout);
  if (stream.ok()) co_return stream;
  co_return make_error(stream.error().code, why_unreachable(stream.error()),
                       "cannot reach the daemon at " + target.url);
}

ErrorCode code_of(int status) {
  switch (status) {
    case 400: return ErrorCode::invalid_argument;
    case 401: return ErrorCode::unauthenticated;
    case 403: return ErrorCode::permission_denied;
    case 404: return ErrorCode::not_found;
    case 409: return ErrorCode::conflict;
    case 429: return ErrorCode::resource_exhausted;
    case 501: return ErrorCode::unimplemented;
    case 504: return ErrorCode::deadline_exceeded;
    default: return status >= 500 ? ErrorCode::unavailable : ErrorCode::internal;
  }
}

}  // namespace

Error Client::error_of(int status, std::string_view body) const {
  simdjson::dom::parser parser;
  std::string_view message;
  if (parser.parse(body.data(), body.size())["message"].get(message) != simdjson::SUCCESS) message = body;
  std::string text =
      message.empty() ? "status " + std::to_string(status) : std::string(message.substr(0, 1000));
  if (status == 401) {
    text += "; give the daemon's key with E2B_API_KEY, --api-key or --api-key-file";
    if (!target_.why_no_key.empty()) text += " (" + target_.why_no_key + ")";
  }
  return make_error(code_of(status), std::move(text));
}

http::RequestHead Client::head(std::string method, std::string path) const {
  http::RequestHead head;
  head.method = std::move(method);
  head.target = std::move(path);
  head.headers.add("Host", target_.address.authority);
  head.headers.add("User-Agent", "cubectl/" CUBED_VERSION);
  return head;
}

http::RequestHead Client::api_head(std::string method, std::string path) const {
  http::RequestHead head = this->head(std::move(method), std::move(path));
  head.headers.add("Content-Type", "application/json");
  if (!target_.api_key.empty()) head.headers.add("X-API-Key", target_.api_key);
  return head;
}

awaitable<Result<http::ClientConnection>> Client::connect() {
  while (!idle_.empty()) {
    http::ClientConnection kept = std::move(idle_.back());
    idle_.pop_back();
    if (kept.reusable()) co_return std::move(kept);
  }
  auto stream = co_await connect_to(target_);
  if (!stream) co_return std::move(stream).error();
  co_return http::ClientConnection(std::move(*stream));
}

void Client::keep(http::ClientConnection connection) {
  if (connection.reusable() && idle_.size() < kept_connections) idle_.push_back(std::move(connection));
}

awaitable<Result<Opened>> Client::open(http::RequestHead head, std::string body) {
  auto connection = co_await connect();
  if (!connection) co_return std::move(connection).error();
  if (!body.empty() || head.method != "GET") head.headers.set("Content-Length", std::to_string(body.size()));
  auto sent = co_await connection->begin(std::move(head));
  if (sent.ok() && !body.empty()) sent = co_await connection->write(asio::buffer(body));
  if (sent.ok()) sent = co_await connection->finish();
  // A server that refuses a body may answer and close before it has read it.
  auto answer = co_await connection->read_head();
  if (!sent.ok() && !answer.ok()) co_return sent.error();
  if (!answer.ok()) co_return std::move(answer).error();
  co_return Opened{std::move(*connection), std::move(*answer)};
}

awaitable<Result<std::string>> read_answer(Client& client, Opened& opened) {
  const bool success = opened.head.status < 300;
  auto body = co_await opened.connection.read_whole_body(success ? answer_limit : reason_limit);
  if (!success) co_return client.error_of(opened.head.status, body.ok() ? *body : "");
  co_return body;
}

awaitable<Result<http::Response>> Client::exchange(http::RequestHead head, std::string body) {
  auto opened = co_await open(std::move(head), std::move(body));
  if (!opened) co_return std::move(opened).error();
  auto text = co_await read_answer(*this, *opened);
  if (!text) co_return std::move(text).error();
  keep(std::move(opened->connection));
  http::Response response;
  response.status = opened->head.status;
  response.headers = std::move(opened->head.headers);
  response.body = std::move(*text);
  co_return response;
}

awaitable<Result<http::Response>> Client::request(std::string method, std::string path, std::string body) {
  co_return co_await exchange(api_head(std::move(method), std::move(path)), std::move(body));
}

}  // namespace cube::cubectl
