// What the proxy itself answers. SDKs read the texts of the 502s, so they are E2B's; people with a browser
// get HTML.
#pragma once

#include <cube/http.hpp>
#include <string>

#include "proxy/target.hpp"

namespace cube::proxy {

struct Reply {
  http::ResponseHead head;
  std::string body;
};

Reply bad_request(const std::string& message);
Reply internal_route();
Reply sandbox_not_found(const http::RequestHead& request, const Target& target);
Reply port_not_open(const http::RequestHead& request, const Target& target);

/// The sandbox runs, but `message`.
Reply bad_gateway(const http::RequestHead& request, const Target& target, const std::string& message);

asio::awaitable<void> send_reply(http::Exchange& exchange, Reply reply);

}  // namespace cube::proxy
