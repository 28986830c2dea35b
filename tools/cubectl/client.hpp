// The connection to a daemon: requests of its control API, and of sandboxes through its proxy.
#pragma once

#include <cube/http.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "target.hpp"

namespace cube::cubectl {

/// A response whose head has come and whose body has not.
struct Opened {
  http::ClientConnection connection;
  http::ResponseHead head;
};

/// Connections are kept and used again, one request at a time on each. What uses a client must end before it.
class Client {
 public:
  explicit Client(Target target) : target_(std::move(target)) {}

  /// A request of the control API with a JSON body, if any. Statuses that are no success are errors with the
  /// daemon's message.
  asio::awaitable<Result<http::Response>> request(std::string method, std::string path,
                                                  std::string body = {});

  /// The same with a head of one's own.
  asio::awaitable<Result<http::Response>> exchange(http::RequestHead head, std::string body);

  /// Sends a whole request; the answer's body is the caller's to read.
  asio::awaitable<Result<Opened>> open(http::RequestHead head, std::string body);

  /// A connection for a request that the caller writes.
  asio::awaitable<Result<http::ClientConnection>> connect();

  /// For the next request, if it can take one.
  void keep(http::ClientConnection connection);

  /// With Host, and without the key, which no sandbox needs to see.
  http::RequestHead head(std::string method, std::string path) const;

  /// With Host and the key.
  http::RequestHead api_head(std::string method, std::string path) const;

  /// The error that a response stands for.
  Error error_of(int status, std::string_view body) const;

  const Target& target() const { return target_; }

  /// Closes what is kept; before the event loop ends.
  void disconnect() { idle_.clear(); }

 private:
  Target target_;
  std::vector<http::ClientConnection> idle_;
};

/// The body's end of an answer that has come with a success; an error of the daemon's otherwise.
asio::awaitable<Result<std::string>> read_answer(Client& client, Opened& opened);

}  // namespace cube::cubectl
