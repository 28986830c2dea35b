// One client of the daemon, as an SDK is one: a keep-alive connection that mixes REST and sandbox requests.
#pragma once

#include <cube/http.hpp>
#include <memory>
#include <string>

namespace cube::bench {

struct Target {
  std::string address = "127.0.0.1";
  std::uint16_t port = 3000;
  std::string api_key;
};

struct Box {
  std::string id;
  std::string token;
};

class Session {
 public:
  explicit Session(Target target) : target_(std::move(target)) {}

  asio::awaitable<Result<Box>> create(std::string template_name);

  /// Returns at the first byte of the command's output; the rest is read when `to_end`.
  asio::awaitable<Result<void>> run(Box box, std::string command, bool to_end);

  asio::awaitable<Result<void>> kill(Box box);

 private:
  asio::awaitable<Result<http::ClientConnection*>> connection();
  asio::awaitable<Result<std::string>> call(std::string method, std::string path, std::string body);

  Target target_;
  std::unique_ptr<http::ClientConnection> connection_;
};

}  // namespace cube::bench
