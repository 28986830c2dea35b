// One client of the daemon, as an SDK is one: a keep-alive connection that mixes REST and sandbox requests.
// A request without a whole answer after two minutes has failed.
#pragma once

#include <cube/http.hpp>
#include <memory>
#include <string>
#include <vector>

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

  /// Runs a command to its end as the SDKs do, by a login shell; it must succeed.
  asio::awaitable<Result<void>> run_login(Box box, std::string command);

  /// The agent's answer without a command: what the way there and back costs.
  asio::awaitable<Result<void>> health(Box box);

  asio::awaitable<Result<void>> kill(Box box);

  /// Any other call; the answer's body, an error for a status from 300 on.
  asio::awaitable<Result<std::string>> call(std::string method, std::string path, std::string body);

 private:
  asio::awaitable<Result<http::ClientConnection*>> connection();
  asio::awaitable<Result<http::Response>> request(http::RequestHead head, std::string body);
  asio::awaitable<Result<std::string>> start(Box box, std::string message, bool to_end);
  static asio::awaitable<Result<std::string>> start_on(http::ClientConnection& link, Box box,
                                                       std::string message, bool to_end);
  static http::RequestHead to_agent(const Box& box, std::string method, std::string target);

  Target target_;
  std::unique_ptr<http::ClientConnection> connection_;
};

/// One after another; what fails is said.
asio::awaitable<void> kill_all(Target target, std::vector<Box> boxes);

/// Runs a coroutine on a loop of its own until it is done.
void run_to_end(asio::awaitable<void> work);

/// The value of a member that is a text, anywhere in a JSON document: the first, or all of them in order.
std::string text_member(const std::string& json, std::string_view name);
std::vector<std::string> text_members(const std::string& json, std::string_view name);

/// Whether that many sandboxes wait in the daemon's warm pool.
bool waiting_at_least(const Target& target, int count);
/// Waits until they do; false, and the daemon's status is said, if they do not within a minute.
bool wait_for_warm(const Target& target, int count);

}  // namespace cube::bench
