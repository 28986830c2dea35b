#include "api/network_request.hpp"

#include <algorithm>
#include <asio/ip/address.hpp>

namespace cube::api {
namespace {

using simdjson::dom::element_type;

constexpr std::size_t most_destinations = 1024;
constexpr std::size_t most_dns_servers = 10;
constexpr std::size_t most_ports = 128;
constexpr std::size_t longest_domain = 253;
constexpr std::string_view everything = "0.0.0.0/0";
constexpr std::string_view port_placeholder = "${PORT}";
constexpr std::int64_t envd_port = 49983;

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

std::optional<asio::ip::address> parse_address(std::string_view text) {
  asio::error_code bad;
  const auto address = asio::ip::make_address(std::string(text), bad);
  // A scope ("%eth0") says something about an interface of the sandbox's, which is not for a rule to know.
  if (bad || text.find('%') != std::string_view::npos) return std::nullopt;
  return address;
}

struct Fields {
  std::vector<std::string> allow_out, deny_out, dns_servers;
  std::optional<bool> allow_public_traffic, allow_internet_access;
  std::string mask_request_host;
  std::optional<Error> unsupported;  ///< the first of them; only told if nothing is malformed
};

/// `invalid_argument` comes back at once, `unimplemented` waits.
Result<void> refuse_later(Result<void> outcome, Fields& fields) {
  if (outcome.ok() || outcome.error().code != ErrorCode::unimplemented) return outcome;
  if (!fields.unsupported) fields.unsupported = outcome.error();
  return {};
}

Error needs_network(std::string_view field) {
  return make_error(ErrorCode::unimplemented,
                    "'" + std::string(field) +
                        "' is not supported by this server yet: sandboxes have no network " +
                        "of their own; leave it out");
}

Result<void> read_list(JsonValue value, std::string_view field, std::size_t most,
                       std::vector<std::string>& out) {
  if (value.is_null()) return {};
  simdjson::dom::array items;
  if (value.get(items) != simdjson::SUCCESS) return field_error(field, "must be an array of strings");
  out.clear();
  if (items.size() > most)
    return field_error(field, "must not have more than " + std::to_string(most) + " entries");
  for (const auto item : items) {
    std::string_view text;
    if (item.get(text) != simdjson::SUCCESS) return field_error(field, "must be an array of strings");
    out.emplace_back(text);
  }
  return {};
}

Result<void> read_https_ports(JsonValue value, std::string_view field, Fields& fields) {
  if (value.is_null()) return {};
  simdjson::dom::array items;
  if (value.get(items) != simdjson::SUCCESS || items.size() > most_ports)
    return field_error(field, "must be an array of at most " + std::to_string(most_ports) + " ports");
  for (const auto item : items) {
    std::int64_t port = 0;
    if (item.get(port) != simdjson::SUCCESS || port < 1 || port > 65535)
      return field_error(field, "must have ports from 1 to 65535");
    if (port == envd_port) return field_error(field, "must not have port 49983, which never speaks TLS");
  }
  if (items.size() == 0) return {};
  return refuse_later(
      make_error(ErrorCode::unimplemented, "'" + std::string(field) +
                                               "' is not supported by this server yet: ports in " +
                                               "sandboxes are reached over plain HTTP; leave it out"),
      fields);
}

Result<void> read_egress_field(std::string_view name, JsonValue value, std::string_view field,
                               Fields& fields) {
  if (name == "allowOut") return read_list(value, field, most_destinations, fields.allow_out);
  if (name == "denyOut") return read_list(value, field, most_destinations, fields.deny_out);
  if (name == "dnsServers") return read_list(value, field, most_dns_servers, fields.dns_servers);
  if (name == "egressProxy" || name == "rules")
    return refuse_later(accept_only_default(value, field, element_type::OBJECT), fields);
  return refuse_unknown(value, field);
}

Result<void> read_network_field(std::string_view name, JsonValue value, std::string_view field,
                                Fields& fields) {
  if (name == "allowPublicTraffic") return read_field(value, field, fields.allow_public_traffic);
  if (name == "maskRequestHost") return read_field(value, field, fields.mask_request_host);
  if (name == "httpsPorts") return read_https_ports(value, field, fields);
  return read_egress_field(name, value, field, fields);
}

/// `prefix`: what fields are called after, "network." or nothing.
Result<void> check(Fields& fields, const std::string& prefix) {
  const auto not_valid = [&](const char* name, const std::string& entry, const char* what) {
    return field_error(prefix + name, "has '" + entry.substr(0, 100) + "', which is no " + what);
  };
  for (const std::string& entry : fields.deny_out)
    if (!is_destination(entry)) return not_valid("denyOut", entry, "IP address or CIDR block");
  const bool all_denied = std::ranges::count(fields.deny_out, everything) > 0;
  for (const std::string& entry : fields.allow_out) {
    if (is_destination(entry)) continue;
    if (!is_domain_pattern(entry)) return not_valid("allowOut", entry, "IP address, CIDR block or domain");
    if (!all_denied) return field_error(prefix + "allowOut", "with domains needs '0.0.0.0/0' in 'denyOut'");
  }
  for (const std::string& entry : fields.dns_servers) {
    const auto address = parse_address(entry);
    if (!address || !address->is_v4()) return not_valid("dnsServers", entry, "IPv4 address");
  }
  if (!fields.mask_request_host.empty() && !is_host_mask(fields.mask_request_host))
    return field_error(prefix + "maskRequestHost",
                       "must be an ASCII host name, with a port or without; '${PORT}' stands for the port");
  if (!fields.allow_out.empty()) return needs_network(prefix + "allowOut");
  if (!fields.dns_servers.empty()) return needs_network(prefix + "dnsServers");
  if (fields.unsupported) return *fields.unsupported;
  return {};
}

bool is_label(std::string_view label) {
  return !label.empty() && label.size() <= 63 && label.front() != '-' && label.back() != '-' &&
         std::ranges::all_of(label, [](char c) { return is_alphanumeric(c) || c == '-' || c == '_'; });
}

}  // namespace

bool is_destination(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto address = parse_address(text.substr(0, slash));
  if (!address || slash == std::string_view::npos) return address.has_value();
  const std::string_view length = text.substr(slash + 1);
  const bool digits = !length.empty() && length.size() <= 3 &&
                      std::ranges::all_of(length, [](char c) { return c >= '0' && c <= '9'; });
  return digits && std::stoi(std::string(length)) <= (address->is_v4() ? 32 : 128);
}

bool is_domain_pattern(std::string_view text) {
  if (text.starts_with("*.")) text.remove_prefix(2);
  if (text.size() > longest_domain) return false;
  for (;;) {
    const std::size_t dot = text.find('.');
    if (!is_label(text.substr(0, dot))) return false;
    if (dot == std::string_view::npos) break;
    text.remove_prefix(dot + 1);
  }
  // "1.2.3.4" is an address, and "1.2.3.400" a mistake.
  return !std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

bool is_host_mask(std::string_view text) {
  if (text.empty() || text.size() > longest_domain + port_placeholder.size() + 1) return false;
  while (!text.empty()) {
    if (text.starts_with(port_placeholder)) {
      text.remove_prefix(port_placeholder.size());
      continue;
    }
    if (!is_alphanumeric(text.front()) &&
        std::string_view("-._~:[]").find(text.front()) == std::string_view::npos)
      return false;
    text.remove_prefix(1);
  }
  return true;
}

Result<void> read_network(JsonValue value, std::string_view field, node::NetworkPolicy& policy) {
  if (value.is_null()) return {};
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return field_error(field, "must be an object");
  const std::string prefix = std::string(field) + ".";
  Fields fields;
  for (const auto& [name, member] : object)
    CUBE_TRY(read_network_field(name, member, prefix + std::string(name), fields));
  CUBE_TRY(check(fields, prefix));
  policy.allow_public_traffic = fields.allow_public_traffic.value_or(true);
  policy.mask_request_host = std::move(fields.mask_request_host);
  policy.egress.deny_out = std::move(fields.deny_out);
  return {};
}

Result<node::EgressRules> parse_network_update(std::string_view body) {
  if (body.empty()) return node::EgressRules{};
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  Fields fields;
  for (const auto& [name, value] : *object) {
    if (name == "allow_internet_access")
      CUBE_TRY(read_field(value, name, fields.allow_internet_access));
    else
      CUBE_TRY(read_egress_field(name, value, name, fields));
  }
  CUBE_TRY(check(fields, ""));
  if (fields.allow_internet_access.value_or(false)) return needs_network("allow_internet_access");
  return node::EgressRules{std::move(fields.deny_out)};
}

}  // namespace cube::api
