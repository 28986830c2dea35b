#include "proxy/replies.hpp"

namespace cube::proxy {
namespace {

Reply make_reply(int status, std::string_view content_type, std::string body) {
  Reply reply{{status, {}}, std::move(body)};
  reply.head.headers.add("Content-Type", content_type);
  reply.head.headers.add("Access-Control-Allow-Origin", "*");
  return reply;
}

// Every browser calls itself Mozilla.
bool is_browser(const http::RequestHead& request) {
  return request.headers.get("User-Agent").value_or("").find("Mozilla/") != std::string_view::npos;
}

enum class Name { sandbox, sandbox_and_port };

// Nothing here needs escaping in HTML: ids are [a-z0-9]+, messages are our own.
std::string html(const Target& target, int status, const std::string& message, Name name) {
  std::string text = "<html><head><title>" + std::to_string(status) + " ";
  text.append(http::reason_phrase(status)).append("</title></head><body><h1>");
  text.append(message).append("</h1><p>Sandbox ").append(target.sandbox_id);
  if (name == Name::sandbox_and_port) text.append(", port ").append(std::to_string(target.port));
  return text + "</p></body></html>\n";
}

Reply sandbox_reply(const http::RequestHead& request, const Target& target, int status,
                    const std::string& message, Name name) {
  if (is_browser(request))
    return make_reply(status, "text/html; charset=utf-8", html(target, status, message, name));
  JsonWriter json;
  json.begin_object().key("sandboxId").value(target.sandbox_id).key("message").value(message);
  if (name == Name::sandbox_and_port) json.key("port").value(target.port);
  json.key("code").value(status).end_object();
  return make_reply(status, "application/json; charset=utf-8", json.take());
}

Reply plain_reply(int status, const std::string& message) {
  return make_reply(status, "text/plain; charset=utf-8", message + "\n");
}

Reply json_reply(int status, const std::string& message) {
  JsonWriter json;
  json.begin_object().key("code").value(status).key("message").value(message).end_object();
  return make_reply(status, "application/json; charset=utf-8", json.take());
}

Reply with_retry(Reply reply) {
  reply.head.headers.add("Retry-After", "1");
  return reply;
}

}  // namespace

Reply bad_request(const std::string& message) { return plain_reply(400, message); }

Reply bad_body(const Error& fault) {
  if (fault.code == ErrorCode::deadline_exceeded) return json_reply(408, fault.message);
  return bad_request("Malformed request body");
}

Reply internal_route() { return json_reply(404, "not found"); }

Reply sandbox_not_found(const http::RequestHead& request, const Target& target) {
  return sandbox_reply(request, target, 502, "The sandbox was not found", Name::sandbox);
}

Reply port_not_open(const http::RequestHead& request, const Target& target) {
  return bad_gateway(request, target, "The sandbox is running but port is not open");
}

Reply bad_gateway(const http::RequestHead& request, const Target& target, const std::string& message) {
  return sandbox_reply(request, target, 502, message, Name::sandbox_and_port);
}

Reply forbidden(const http::RequestHead& request, const Target& target, const std::string& message) {
  return sandbox_reply(request, target, 403, message, Name::sandbox);
}

Reply too_many_connections(const http::RequestHead& request, const Target& target, std::size_t limit) {
  return with_retry(sandbox_reply(
      request, target, 429,
      "The sandbox has " + std::to_string(limit) + " connections, which is as many as it may have",
      Name::sandbox));
}

Reply too_many_signed_urls() {
  return with_retry(plain_reply(429,
                                "Too many signed URLs without a sandbox's id; name it by E2b-Sandbox-Id and "
                                "E2b-Sandbox-Port, or ask later"));
}

Reply unknown_signature() {
  return plain_reply(
      400,
      "This signed URL names no sandbox, and its signature is of none that is there; check path, "
      "username and signature, or name it by the headers E2b-Sandbox-Id and E2b-Sandbox-Port");
}

asio::awaitable<void> send_reply(http::Exchange& exchange, Reply reply) {
  const auto sent = co_await exchange.respond(std::move(reply.head), std::move(reply.body));
  static_cast<void>(sent);  // a client that is gone gets no answer
}

}  // namespace cube::proxy
