// What requests say about a sandbox's network: the object `network` of a create, the body of PUT …/network.
//
// Sandboxes have no network yet. What denies destinations is true as it is, and kept; what would let anything
// out is `unimplemented` and named. What is malformed is `invalid_argument` before that.
#pragma once

#include <cube/node.hpp>

#include "api/json_reader.hpp"

namespace cube::api {

Result<void> read_network(JsonValue value, std::string_view field, node::NetworkPolicy& policy);

/// Replaces: what the body leaves out is cleared. The body may be empty.
Result<node::EgressRules> parse_network_update(std::string_view body);

/// An IPv4 or IPv6 address, or a CIDR block of one.
bool is_destination(std::string_view text);

/// "example.com" or "*.example.com".
bool is_domain_pattern(std::string_view text);

/// What a Host header may be, "${PORT}" standing for a port.
bool is_host_mask(std::string_view text);

}  // namespace cube::api
