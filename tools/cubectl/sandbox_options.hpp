// What the commands about sandboxes share.
#pragma once

#include "command_line.hpp"
#include "json.hpp"

namespace cube::cubectl {

struct OneSandbox {
  std::string id;
};

/// "/sandboxes/ID" and what follows.
std::string sandbox_path(const std::string& id, const std::string& rest = {});

/// {"timeout":SECONDS}
std::string timeout_body(std::int64_t seconds);

/// {"sandboxID":"…","state":"…"} with --json, else nothing: success needs no words.
void print_state(const Session& session, const std::string& id, std::string_view state);

/// The whole answer as JSON, or one of its members.
Outcome print_member(const Session& session, const http::Response& answer, std::string_view member);

/// The sandbox that a command is about.
CLI::Option* add_sandbox(CLI::App* command, std::string& id);

/// --timeout, with what is in `seconds` as the default.
CLI::Option* add_timeout(CLI::App* command, std::int64_t& seconds, const std::string& description);

}  // namespace cube::cubectl
