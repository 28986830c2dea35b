// What the proxy itself answers. SDKs read the texts of the 502s, so they are E2B's, as those of the 403s
// are; people with a browser get HTML.
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

/// 408 for one that came too slowly, else 400.
Reply bad_body(const Error& fault);

Reply internal_route();
Reply sandbox_not_found(const http::RequestHead& request, const Target& target);
Reply port_not_open(const http::RequestHead& request, const Target& target);

/// The sandbox runs, but `message`.
Reply bad_gateway(const http::RequestHead& request, const Target& target, const std::string& message);

/// 403: the port is there, and not for everybody.
Reply forbidden(const http::RequestHead& request, const Target& target, const std::string& message);

/// 429
Reply too_many_connections(const http::RequestHead& request, const Target& target, std::size_t limit);
Reply too_many_signed_urls();

/// 400: a signed URL of no sandbox that is there.
Reply unknown_signature();

asio::awaitable<void> send_reply(http::Exchange& exchange, Reply reply);

}  // namespace cube::proxy
