// Target: which sandbox, and which port in it, a request is for.
#pragma once

#include <cstdint>
#include <cube/http.hpp>
#include <string>
#include <string_view>
#include <variant>

namespace cube::proxy {

inline constexpr std::uint16_t envd_tcp_port = 49983;

struct Target {
  std::string sandbox_id;  ///< [a-z0-9]+
  std::uint16_t port = 0;
  std::string request_target;  ///< what the guest sees: without the prefix of the path form
};

/// The request tries to name a sandbox and fails: 400 with this text.
struct BadTarget {
  std::string message;
};

/// Nothing: the request is not for a sandbox. In this order:
///   headers   E2b-Sandbox-Id and E2b-Sandbox-Port
///   Host      {port}-{id}[-suffix].domain
///   path      /sandbox/{id}/{port}/…, for clients that can set neither
using Destination = std::variant<std::monostate, Target, BadTarget>;

Destination find_destination(const http::RequestHead& request);

/// envd's own routes, which the daemon alone calls: however the path is spelled.
bool is_internal_envd_path(std::string_view path);

}  // namespace cube::proxy
