// Heads of HTTP/2 (RFC 9113 section 8) to and from those that handlers know.
#pragma once

#include <cube/http.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "http/head.hpp"

namespace cube::http {

/// Field lines in the order they came, pseudo-header fields (":path") among them.
using Http2Fields = std::vector<std::pair<std::string, std::string>>;

/// What handlers written for HTTP/1.1 expect: `:authority` as Host, "Transfer-Encoding: chunked" on a body of
/// unannounced length, Cookie in one line, nothing about the connection. Whatever HTTP/1.1 could not say, or
/// two readers could read differently, is refused: a proxy passes this on.
std::variant<ParsedRequest, Refusal> make_request_head(Http2Fields fields, bool has_body);

/// The fields to send, names in lower case, without those about the connection. The caller has checked the
/// head.
Http2Fields make_response_fields(const ResponseHead& head);

}  // namespace cube::http
