#include "proxy/access.hpp"

namespace cube::proxy {

std::optional<Reply> refuse_traffic(const http::RequestHead& request, const Target& target,
                                    const node::SandboxInfo& sandbox) {
  if (sandbox.network.allow_public_traffic || target.port == envd_tcp_port) return std::nullopt;
  const auto token = request.headers.get(traffic_token_header);
  if (!token)
    return forbidden(
        request, target,
        "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is "
        "missing");
  // One without a token would be open to an empty one.
  if (!sandbox.traffic_access_token.empty() && same_secret(*token, sandbox.traffic_access_token))
    return std::nullopt;
  return forbidden(request, target,
                   "Sandbox is secured with traffic access token. Provided token in header "
                   "'e2b-traffic-access-token' is invalid");
}

}  // namespace cube::proxy
