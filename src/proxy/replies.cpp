#include "proxy/replies.hpp"

namespace cube::proxy {
namespace {

Reply make_reply(int status, std::string content_type, std::string body) {
  Reply reply{{status, {}}, std::move(body)};
  reply.head.headers.add("Content-Type", std::move(content_type));
  reply.head.headers.add("Access-Control-Allow-Origin", "*");
  return reply;
}

// Every browser calls itself Mozilla.
bool is_browser(const http::RequestHead& request) {
  return request.headers.get("User-Agent").value_or("").find("Mozilla/") != std::string_view::npos;
}

enum class Name { sandbox, sandbox_and_port };

// Nothing here needs escaping in HTML: ids are [a-z0-9]+, messages are our own.
std::string html(const Target& target, const std::string& message, Name name) {
  std::string text = "<html><head><title>502 Bad Gateway</title></head><body><h1>" + message +
                     "</h1><p>Sandbox " + target.sandbox_id;
  if (name == Name::sandbox_and_port) text += ", port " + std::to_string(target.port);
  return text + "</p></body></html>\n";
}

Reply gateway_reply(const http::RequestHead& request, const Target& target, const std::string& message,
                    Name name) {
  if (is_browser(request)) return make_reply(502, "text/html; charset=utf-8", html(target, message, name));
  JsonWriter json;
  json.begin_object().key("sandboxId").value(target.sandbox_id).key("message").value(message);
  if (name == Name::sandbox_and_port) json.key("port").value(target.port);
  json.key("code").value(502).end_object();
  return make_reply(502, "application/json; charset=utf-8", json.take());
}

}  // namespace

Reply bad_request(const std::string& message) {
  return make_reply(400, "text/plain; charset=utf-8", message + "\n");
}

Reply internal_route() {
  JsonWriter json;
  json.begin_object().key("code").value(404).key("message").value("not found").end_object();
  return make_reply(404, "application/json; charset=utf-8", json.take());
}

Reply sandbox_not_found(const http::RequestHead& request, const Target& target) {
  return gateway_reply(request, target, "The sandbox was not found", Name::sandbox);
}

Reply port_not_open(const http::RequestHead& request, const Target& target) {
  return gateway_reply(request, target, "The sandbox is running but port is not open",
                       Name::sandbox_and_port);
}

Reply bad_gateway(const http::RequestHead& request, const Target& target, const std::string& message) {
  return gateway_reply(request, target, message, Name::sandbox_and_port);
}

asio::awaitable<void> send_reply(http::Exchange& exchange, Reply reply) {
  const auto sent = co_await exchange.respond(std::move(reply.head), std::move(reply.body));
  static_cast<void>(sent);  // a client that is gone gets no answer
}

}  // namespace cube::proxy
