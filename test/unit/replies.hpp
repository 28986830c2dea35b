// Answers that the servers of several tests give.
#pragma once

#include <cube/http.hpp>
#include <string>
#include <vector>

namespace cube::test {

// A function, because g++ 12 breaks over initializer lists of strings inside a co_await expression.
inline http::ResponseHead reply(int status, std::string name = {}, std::string value = {}) {
  http::ResponseHead head{status, {}};
  if (!name.empty()) head.headers.add(std::move(name), std::move(value));
  return head;
}

/// Sends the request's body back while it comes.
inline asio::awaitable<void> echo(http::Exchange& exchange, http::ResponseHead head = reply(200)) {
  auto done = co_await exchange.begin(std::move(head));
  std::vector<char> buffer(16 << 10);
  while (done.ok()) {
    const auto count = co_await exchange.read_body(asio::buffer(buffer));
    if (!count.ok()) co_return;
    if (*count == 0) break;
    done = co_await exchange.write(asio::buffer(buffer.data(), *count));
  }
  done = co_await exchange.finish();
}

}  // namespace cube::test
