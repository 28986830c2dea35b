// Who may reach a sandbox's ports: everybody, or who has its traffic access token.
#pragma once

#include <cube/http.hpp>
#include <cube/node.hpp>
#include <optional>

#include "proxy/replies.hpp"
#include "proxy/target.hpp"

namespace cube::proxy {

inline constexpr std::string_view traffic_token_header = "E2b-Traffic-Access-Token";

/// The refusal, if it is one. envd is not asked about: it has a token of its own.
std::optional<Reply> refuse_traffic(const http::RequestHead& request, const Target& target,
                                    const node::SandboxInfo& sandbox);

}  // namespace cube::proxy
