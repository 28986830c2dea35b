// What of a message's headers belongs to one connection only (RFC 9110 section 7.6.1) and is not passed on.
#pragma once

#include <cube/http.hpp>

namespace cube::proxy {

/// The client asks to switch protocols.
bool asks_for_upgrade(const http::Headers& headers);

/// How many bytes it has is known, or that it comes in chunks.
bool has_body(const http::RequestHead& request);

/// 0 without a body, and if its length is not known beforehand.
std::uint64_t announced_length(const http::RequestHead& request);

/// The request as the guest gets it, without the token that was for the proxy. `upgrade` passes the switch of
/// protocols on.
http::RequestHead forwarded_request(const http::RequestHead& request, std::string target, bool upgrade);

/// Sets the Host to `mask`, "${PORT}" in it being the port, and X-Forwarded-Host to what the client sent.
void mask_host(http::Headers& headers, std::string_view mask, std::uint16_t port);

/// The response as the client gets it. Framing and keep-alive are the server's business again.
http::ResponseHead forwarded_response(http::ResponseHead response);

/// A 101 as the client gets it.
http::ResponseHead forwarded_switch(const http::ResponseHead& response);

}  // namespace cube::proxy
