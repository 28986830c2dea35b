// An agent on a loop of its own, and a client of it that speaks Connect as E2B's SDKs do.
#pragma once

#include <arpa/inet.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <cube/http.hpp>
#include <map>
#include <memory>
#include <string>

#include "agent.hpp"

namespace cube::agent::test {

using Fields = std::map<std::string, std::string>;

// A function: g++ 12 cannot keep an initializer list in a coroutine's frame.
inline Fields field(std::string name, std::string value) { return {{std::move(name), std::move(value)}}; }

/// What a process stream told, up to where it was read.
struct Story {
  std::int64_t pid = 0;
  std::string out;
  std::string err;
  std::string terminal;
  bool ended = false;
  std::int64_t exit_code = -100;
  bool exited = false;
  std::string status;
  std::string error;
  int keepalives = 0;
  bool first_was_start = false;
  std::string trailer;  ///< of the end-of-stream envelope; empty if it did not come
};

/// One open server stream.
class EventStream {
 public:
  explicit EventStream(std::unique_ptr<Stream> stream) : connection(std::move(stream)) {}

  http::ClientConnection connection;
  Story story;
  int status = 0;

  /// Takes one envelope into the story; false when there is none any more.
  asio::awaitable<bool> step() {
    while (!envelope_complete()) {
      char chunk[16384];
      const auto count = co_await connection.read_body(asio::buffer(chunk));
      if (!count || *count == 0) co_return false;
      bytes_.append(chunk, *count);
    }
    std::uint32_t size = 0;
    std::memcpy(&size, bytes_.data() + 1, 4);
    size = ntohl(size);
    const bool last = bytes_[0] == 2;
    std::string json = bytes_.substr(5, size);
    bytes_.erase(0, 5 + size);
    if (last)
      story.trailer = std::move(json);
    else
      tell(std::move(json));
    co_return !last;
  }

  asio::awaitable<void> read_to_end() {
    for (bool more = true; more;) more = co_await step();
  }

  asio::awaitable<void> read_until_output(std::string text) {
    for (bool more = true; more && (story.out + story.terminal).find(text) == std::string::npos;)
      more = co_await step();
  }

 private:
  bool envelope_complete() const {
    if (bytes_.size() < 5) return false;
    std::uint32_t size = 0;
    std::memcpy(&size, bytes_.data() + 1, 4);
    return bytes_.size() >= 5 + ntohl(size);
  }

  void tell(std::string json) {
    const JsonObject message = JsonObject::parse(std::move(json)).value();
    const JsonObject event = message.object("event").value();
    if (event.has("start")) {
      story.first_was_start = !anything_;
      story.pid = event.object("start").value().integer("pid").value();
    } else if (event.has("data")) {
      const JsonObject data = event.object("data").value();
      story.out += data.bytes("stdout").value();
      story.err += data.bytes("stderr").value();
      story.terminal += data.bytes("pty").value();
    } else if (event.has("end")) {
      const JsonObject end = event.object("end").value();
      story.ended = true;
      story.exit_code = end.integer("exitCode").value();
      story.exited = end.boolean("exited").value();
      story.status = end.string("status").value();
      story.error = end.string("error").value();
    } else if (event.has("keepalive")) {
      ++story.keepalives;
    }
    anything_ = true;
  }

  std::string bytes_;
  bool anything_ = false;
};

inline std::string enveloped(std::string_view json) {
  std::string text(1, '\0');
  const std::uint32_t size = htonl(static_cast<std::uint32_t>(json.size()));
  text.append(reinterpret_cast<const char*>(&size), 4).append(json);
  return text;
}

/// {"process":{"cmd":"/bin/bash","args":["-c",SCRIPT]},"stdin":false}; `members` as ",\"tag\":\"x\"" follow.
inline std::string shell(std::string_view script, std::string_view members = R"(,"stdin":false)") {
  JsonWriter json;
  json.begin_object().key("cmd").value("/bin/bash").key("args").begin_array();
  json.value("-c").value(script).end_array().end_object();
  return R"({"process":)" + json.take() + std::string(members) + "}";
}

inline std::string selector(std::int64_t pid, std::string_view members = "") {
  return R"({"process":{"pid":)" + std::to_string(pid) + "}" + std::string(members) + "}";
}

// g++ 12 evaluates a co_await inside CHECK() twice: assertions are about answers that are there already.
inline asio::awaitable<void> expect_status(asio::awaitable<http::Response> call, int status) {
  const http::Response answer = co_await std::move(call);
  INFO(answer.body);
  CHECK(answer.status == status);
}

class Guest {
 public:
  Guest() {
    ::signal(SIGPIPE, SIG_IGN);  // as the agent's main does
    agent = Agent::create(loop, Role::test_on_host).value();
    agent->settings().default_user = user_name_of(::geteuid());
    port = agent->listen_envd("127.0.0.1", 0).value();
    control_port = agent->listen_control("127.0.0.1", 0).value();
  }

  asio::io_context loop{1};
  std::unique_ptr<Agent> agent;
  std::uint16_t port = 0;
  std::uint16_t control_port = 0;
  Fields headers;  ///< sent with every request

  /// Runs the loop until the test is done; a test that hangs fails.
  void run(asio::awaitable<void> test) {
    std::exception_ptr failure;
    bool done = false;
    asio::co_spawn(loop, std::move(test), [&](std::exception_ptr exception) {
      failure = exception;
      done = true;
      loop.stop();
    });
    loop.restart();
    loop.run_for(std::chrono::seconds(100));
    if (failure) std::rethrow_exception(failure);
    REQUIRE(done);
  }

  asio::awaitable<http::Response> request(std::uint16_t to, std::string method, std::string target,
                                          std::string type, std::string body) {
    http::ClientConnection connection(
        (co_await http::connect_tcp("127.0.0.1", to, std::chrono::seconds(5))).value());
    http::RequestHead head = head_for(std::move(method), std::move(target), std::move(type));
    co_return (co_await http::request(connection, std::move(head), std::move(body), 1 << 20)).value();
  }

  asio::awaitable<http::Response> get(std::string target) {
    return request(port, "GET", std::move(target), "", "");
  }

  asio::awaitable<http::Response> call(std::string method, std::string json) {
    return request(port, "POST", "/process.Process/" + method, "application/json", std::move(json));
  }

  /// Opens a server stream and reads its head.
  asio::awaitable<std::unique_ptr<EventStream>> open(std::string method, std::string json, Fields more = {}) {
    auto stream = std::make_unique<EventStream>(
        (co_await http::connect_tcp("127.0.0.1", port, std::chrono::seconds(5))).value());
    http::RequestHead head = head_for("POST", "/process.Process/" + method, "application/connect+json");
    for (const auto& [name, value] : more) head.headers.set(name, value);
    const std::string body = enveloped(json);
    head.headers.set("Content-Length", std::to_string(body.size()));
    (co_await stream->connection.begin(std::move(head))).ok();
    (co_await stream->connection.write(asio::buffer(body))).ok();
    (co_await stream->connection.finish()).ok();
    const http::ResponseHead answer = (co_await stream->connection.read_head()).value();
    stream->status = answer.status;
    co_return stream;
  }

  asio::awaitable<Story> start(std::string json, Fields more = {}) {
    const auto stream = co_await open("Start", std::move(json), std::move(more));
    co_await stream->read_to_end();
    co_return stream->story;
  }

 private:
  http::RequestHead head_for(std::string method, std::string target, std::string type) const {
    http::RequestHead head;
    head.method = std::move(method);
    head.target = std::move(target);
    head.headers.add("Host", "guest");
    if (!type.empty()) head.headers.add("Content-Type", std::move(type));
    for (const auto& [name, value] : headers) head.headers.set(name, value);
    return head;
  }
};

}  // namespace cube::agent::test
