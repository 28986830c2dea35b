// The messages of process.Process (E2B's spec/process/process.proto) in proto3 JSON.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rpc.hpp"

namespace cube::agent {

struct TerminalSize {
  std::uint16_t columns = 80;
  std::uint16_t rows = 24;
};

/// ProcessConfig
struct ProcessConfig {
  std::string command;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;
  std::string directory;  ///< as requested; may be relative, "~…" or empty
};

struct StartRequest {
  ProcessConfig config;
  std::optional<TerminalSize> terminal;
  std::string tag;
  bool input = true;
};

/// ProcessSelector
struct ProcessSelector {
  std::int64_t pid = 0;
  std::string tag;  ///< used if `pid` is 0

  std::string describe() const;
};

/// ProcessInput
struct ProcessInput {
  bool to_terminal = false;
  std::string bytes;
};

Result<StartRequest> parse_start(const JsonObject& message);
/// Of the "process" member.
Result<ProcessSelector> parse_selector(const JsonObject& message);
/// Of the "pty" member; nothing if it is absent.
Result<std::optional<TerminalSize>> parse_terminal(const JsonObject& message);
/// Of the "input" member.
Result<ProcessInput> parse_input(const JsonObject& message);

enum class OutputKind { standard_output, standard_error, terminal };

/// ProcessEvent messages, as StartResponse and ConnectResponse carry them.
std::string start_event(std::int64_t pid);
std::string data_event(OutputKind kind, std::string_view bytes);
std::string end_event(int status);
std::string keepalive_event();

}  // namespace cube::agent
