// The REST API over real HTTP, in front of sandboxes and templates in memory.
#pragma once

#include <simdjson.h>

#include <cube/api.hpp>

#include "event_loop.hpp"
#include "memory_node.hpp"

namespace cube::test {

using namespace std::chrono_literals;

inline const std::string key = "e2b_0123456789abcdef";

inline http::RequestHead ask(const std::string& method, const std::string& target,
                             const http::Headers& headers) {
  return {method, target, headers};
}

inline api::Settings default_settings() { return {key, "cube.local", "/images"}; }

struct Fixture {
  explicit Fixture(api::Settings settings = default_settings(), http::Limits limits = {})
      : server(loop.get_executor(), api::make_handler(std::move(settings), sandboxes, templates), limits) {
    port = must(server.listen("127.0.0.1", 0));
    templates::TemplateInfo base;
    base.id = "ssssssssssssssssssss";
    base.name = "base";
    base.created_at = node::TimePoint(std::chrono::milliseconds(1767323045678));
    templates.infos.push_back(base);
  }

  http::Response send(const std::string& method, const std::string& target, const std::string& body,
                      const http::Headers& headers) {
    http::Response response;
    run(loop, [&]() -> asio::awaitable<void> {
      auto stream = co_await http::connect_tcp("127.0.0.1", port, 10s);
      http::ClientConnection connection(must(std::move(stream)));
      auto answer = co_await http::request(connection, ask(method, target, headers), body, 4 << 20);
      response = must(std::move(answer));
    });
    return response;
  }

  http::Response call(const std::string& method, const std::string& target, const std::string& body = "") {
    http::Headers headers;
    headers.add("X-API-Key", key);
    headers.add("Content-Type", "application/json");
    return send(method, target, body, headers);
  }

  std::string create(const std::string& body = R"({"templateID":"base"})") {
    const http::Response response = call("POST", "/v2/sandboxes", body);
    REQUIRE(response.status == 201);
    return sandboxes.infos.back().id;
  }

  asio::io_context loop;
  MemorySandboxes sandboxes;
  MemoryTemplates templates;
  http::Server server;
  std::uint16_t port = 0;
};

/// A member by JSON pointer as JSON text: at(body, "/0/state") == "\"running\"".
inline std::string at(const std::string& body, const std::string& pointer) {
  simdjson::dom::parser parser;
  simdjson::dom::element element;
  if (parser.parse(body).at_pointer(pointer).get(element)) return "(nothing)";
  return simdjson::minify(element);
}

inline std::string header(const http::Response& response, std::string_view name) {
  return std::string(response.headers.get(name).value_or("(none)"));
}

/// The error's message, after checking that it has E2B's shape.
inline std::string problem(const http::Response& response, int status) {
  CHECK(response.status == status);
  CHECK(at(response.body, "/code") == std::to_string(status));
  CHECK(header(response, "Content-Type") == "application/json; charset=utf-8");
  return at(response.body, "/message");
}

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace cube::test
