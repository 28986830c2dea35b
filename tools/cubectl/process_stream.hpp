// A process in a sandbox: started, watched, fed and signalled (E2B's process.Process).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "connect_stream.hpp"
#include "sandbox_access.hpp"
#include "terminal.hpp"

namespace cube::cubectl {

struct ProcessRequest {
  std::string command;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;
  std::string directory;                 ///< empty: the user's home
  std::optional<TerminalSize> terminal;  ///< a pseudo-terminal of that size
  bool input = false;                    ///< else it reads end of file
};

struct ProcessEvent {
  enum class Kind { standard_output, standard_error, terminal, end, other };
  Kind kind = Kind::other;
  std::string bytes;
  int exit_status = 0;  ///< of `end`: as a shell has it, 128 and the signal's number for one that was killed
  std::string json;     ///< the message as it came
};

class ProcessStream {
 public:
  /// Returns once the process runs.
  static asio::awaitable<Result<std::unique_ptr<ProcessStream>>> start(Client& client, Sandbox sandbox,
                                                                       ProcessRequest request);

  std::int64_t pid() const { return pid_; }
  const std::string& start_json() const { return start_json_; }

  /// Nothing after the end. A stream that breaks off before is an error.
  asio::awaitable<Result<std::optional<ProcessEvent>>> next();

  /// Ends an outstanding next().
  void close() { connection_.close(); }

 private:
  ProcessStream(Sandbox sandbox, http::ClientConnection connection)
      : sandbox_(std::move(sandbox)), connection_(std::move(connection)), piece_(64 << 10) {}

  asio::awaitable<Result<std::optional<std::string>>> receive();
  Error broken_off() const;

  Sandbox sandbox_;
  http::ClientConnection connection_;
  agent::EnvelopeParser parser_;
  std::vector<char> piece_;
  std::int64_t pid_ = 0;
  std::string start_json_;
  bool ended_ = false;
};

enum class InputKind { standard_input, terminal };

asio::awaitable<Result<void>> send_input(Client& client, const Sandbox& sandbox, std::int64_t pid,
                                         InputKind kind, std::string bytes);
asio::awaitable<Result<void>> close_input(Client& client, const Sandbox& sandbox, std::int64_t pid);
asio::awaitable<Result<void>> resize(Client& client, const Sandbox& sandbox, std::int64_t pid,
                                     TerminalSize size);

/// SIGTERM or SIGKILL; the agent knows no others.
asio::awaitable<Result<void>> send_signal(Client& client, const Sandbox& sandbox, std::int64_t pid,
                                          int number);

}  // namespace cube::cubectl
