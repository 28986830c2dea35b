#include "client.hpp"

#include <simdjson.h>

#include <array>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <optional>

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::chrono::seconds connect_timeout{5};
constexpr std::size_t answer_limit = 64 << 20;
constexpr std::size_t line_limit = 1 << 20;

struct Address {
  std::string host;
  std::uint16_t port = 80;
};

Result<Address> parse_url(std::string_view url) {
  const auto bad = [&] {
    return make_error(ErrorCode::invalid_argument, "not a URL like http://127.0.0.1:3000", std::string(url));
  };
  constexpr std::string_view scheme = "http://";
  if (!url.starts_with(scheme)) return bad();
  const std::string_view authority = url.substr(scheme.size(), url.find('/', scheme.size()) - scheme.size());
  const std::size_t colon = authority.rfind(':');
  Address address{std::string(authority.substr(0, colon)), 80};
  if (address.host.empty()) return bad();
  if (colon == authority.npos) return address;
  unsigned port = 0;
  for (const char c : authority.substr(colon + 1)) {
    if (c < '0' || c > '9' || (port = port * 10 + static_cast<unsigned>(c - '0')) > 65535) return bad();
  }
  address.port = static_cast<std::uint16_t>(port);
  return address;
}

Error answer_error(int status, std::string_view body) {
  simdjson::dom::parser parser;
  std::string_view message;
  if (parser.parse(body.data(), body.size()).get_object()["message"].get(message) != simdjson::SUCCESS)
    message = body;
  return make_error(ErrorCode::unavailable,
                    std::string(message) + " (status " + std::to_string(status) + ")");
}

struct Opened {
  http::ClientConnection connection;
  http::ResponseHead head;
};

awaitable<Result<Opened>> send(Target target, std::string method, std::string path, std::string body) {
  const auto address = parse_url(target.url);
  if (!address) co_return address.error();
  auto stream = co_await http::connect_tcp(address->host, address->port, connect_timeout);
  if (!stream) co_return std::move(stream).error();
  http::ClientConnection connection(std::move(*stream));
  http::RequestHead head{method,
                         path,
                         {{"Host", address->host + ":" + std::to_string(address->port)},
                          {"Content-Type", "application/json"},
                          {"Content-Length", std::to_string(body.size())}}};
  if (!target.api_key.empty()) head.headers.add("X-API-Key", target.api_key);
  const auto begun = co_await connection.begin(std::move(head));
  if (!begun.ok()) co_return begun.error();
  const auto written = co_await connection.write(asio::buffer(body));
  if (!written.ok()) co_return written.error();
  const auto finished = co_await connection.finish();
  if (!finished.ok()) co_return finished.error();
  auto answer = co_await connection.read_head();
  if (!answer) co_return std::move(answer).error();
  if (answer->status < 300) co_return Opened{std::move(connection), std::move(*answer)};
  const auto reason = co_await connection.read_whole_body(line_limit);
  co_return answer_error(answer->status, reason.ok() ? *reason : "no reason given");
}

awaitable<Result<std::string>> receive_whole(Target target, std::string method, std::string path,
                                             std::string body) {
  auto opened = co_await send(std::move(target), std::move(method), std::move(path), std::move(body));
  if (!opened) co_return std::move(opened).error();
  co_return co_await opened->connection.read_whole_body(answer_limit);
}

awaitable<Result<void>> receive_lines(Target target, std::string method, std::string path, std::string body,
                                      std::function<Result<void>(std::string_view)> on_line) {
  auto opened = co_await send(std::move(target), std::move(method), std::move(path), std::move(body));
  if (!opened) co_return std::move(opened).error();
  std::string pending;
  std::array<char, 16 << 10> chunk;
  for (;;) {
    const auto count = co_await opened->connection.read_body(asio::buffer(chunk));
    if (!count) co_return count.error();
    if (*count == 0) break;
    pending.append(chunk.data(), *count);
    for (std::size_t end; (end = pending.find('\n')) != std::string::npos; pending.erase(0, end + 1)) {
      const auto handled = on_line(std::string_view(pending).substr(0, end));
      if (!handled.ok()) co_return handled.error();
    }
    if (pending.size() > line_limit)
      co_return make_error(ErrorCode::unavailable, "the answer has an endless line");
  }
  co_return Result<void>{};
}

/// Runs one coroutine to its end.
template <class T>
Result<T> wait_for(awaitable<Result<T>> work) {
  asio::io_context loop;
  std::optional<Result<T>> outcome;
  // Asio wants a default-constructible result, which not every Result is.
  struct Box {
    static awaitable<void> run(awaitable<Result<T>> work, std::optional<Result<T>>& outcome) {
      outcome.emplace(co_await std::move(work));
    }
  };
  asio::co_spawn(loop, Box::run(std::move(work), outcome), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  loop.run();
  if (!outcome) return make_error(ErrorCode::internal, "the request never ended");
  return std::move(*outcome);
}

}  // namespace

Result<std::string> call(const Target& target, std::string method, std::string path, std::string body) {
  return wait_for(receive_whole(target, std::move(method), std::move(path), std::move(body)));
}

Result<void> call_streaming(const Target& target, std::string method, std::string path, std::string body,
                            std::function<Result<void>(std::string_view)> on_line) {
  return wait_for(
      receive_lines(target, std::move(method), std::move(path), std::move(body), std::move(on_line)));
}

}  // namespace cube::cubectl
