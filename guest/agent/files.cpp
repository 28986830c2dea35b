// GET, HEAD and POST /files, as envd has them.
#include "files.hpp"

#include <cerrno>

#include "services.hpp"

namespace cube::agent {

namespace {

bool is_full(const Error& error) { return error.os_errno == ENOSPC || error.os_errno == EDQUOT; }

int files_status(const Error& error) {
  if (is_full(error)) return 507;
  switch (error.code) {
    case ErrorCode::invalid_argument: return 400;
    case ErrorCode::unauthenticated: return 401;
    case ErrorCode::not_found: return 404;
    case ErrorCode::unimplemented: return 415;
    case ErrorCode::resource_exhausted: return error.os_errno == 0 ? 413 : 500;
    default: return 500;
  }
}

Result<FilesRequest> parse_request(const http::RequestHead& head, const Settings& settings) {
  const std::string_view query = head.query();
  auto user = acting_user(settings, http::query_parameter(query, "username").value_or(""));
  if (!user.ok()) return std::move(user).error();
  FilesRequest request{std::move(*user), {}};
  if (auto path = http::query_parameter(query, "path"))
    request.path = resolve_path(settings, request.user, *path);
  return request;
}

}  // namespace

http::ResponseHead files_json_head(int status) {
  return http::ResponseHead{
      status, {{"Content-Type", "application/json; charset=utf-8"}, {"Vary", "Accept-Encoding"}}};
}

std::string files_error_json(int status, const Error& error) {
  std::string message = error.os_errno == 0 ? error.message : error.describe();
  if (is_full(error)) message = "not enough disk space available: " + message;
  JsonWriter json;
  json.begin_object().key("code").value(status).key("message").value(message).end_object();
  return json.take();
}

void write_uploaded(JsonWriter& json, std::string_view path) {
  json.key("path").value(path);
  json.key("name").value(path.substr(path.find_last_of('/') + 1));
  json.key("type").value("file");
}

asio::awaitable<void> files_respond(http::Exchange& exchange, http::ResponseHead head, std::string body) {
  const Result<void> sent = co_await exchange.respond(std::move(head), std::move(body));
  if (!sent.ok()) co_return;  // the client is gone: nobody is left to be told
}

asio::awaitable<void> files_respond_error(http::Exchange& exchange, Error error) {
  const int status = files_status(error);
  co_await files_respond(exchange, files_json_head(status), files_error_json(status, error));
}

asio::awaitable<void> serve_files(http::Exchange& exchange, const Settings& settings) {
  const http::RequestHead& head = exchange.request();
  const bool reads = head.method == "GET" || head.method == "HEAD";
  if (!reads && head.method != "POST") {
    http::ResponseHead refusal = files_json_head(405);
    refusal.headers.add("Allow", "GET, HEAD, POST");
    const Error error = make_error(ErrorCode::invalid_argument, "only GET, HEAD and POST are supported");
    co_await files_respond(exchange, std::move(refusal), files_error_json(405, error));
    co_return;
  }
  auto request = parse_request(head, settings);
  if (!request.ok()) {
    co_await files_respond_error(exchange, std::move(request).error());
  } else if (reads) {
    co_await serve_download(exchange, std::move(*request));
  } else {
    co_await serve_upload(exchange, std::move(*request), settings);
  }
}

}  // namespace cube::agent
