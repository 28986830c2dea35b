#include "proxy/target.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <vector>

namespace cube::proxy {
namespace {

constexpr std::string_view path_prefix = "/sandbox/";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_id_character(char c) { return is_digit(c) || (c >= 'a' && c <= 'z'); }

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

// "id" or "id-suffix": SDKs of old join the sandbox's id and a clientID, which says nothing here.
std::optional<std::string> parse_id(std::string_view text) {
  const std::string_view id = text.substr(0, text.find('-'));
  if (id.empty() || id.size() > 64 || !std::ranges::all_of(id, is_id_character)) return std::nullopt;
  if (std::ranges::count(text, '-') > 1) return std::nullopt;
  return std::string(id);
}

Destination make_target(std::string_view id, std::string_view port, std::string request_target) {
  auto parsed_id = parse_id(id);
  if (!parsed_id) return BadTarget{"Invalid sandbox ID"};
  const auto parsed_port = parse_port(port);
  if (!parsed_port) return BadTarget{"Invalid port"};
  return Target{std::move(*parsed_id), *parsed_port, std::move(request_target)};
}

// Older SDKs (2.21) have the sandbox's headers on POST /sandboxes/{id}/connect, too. Nothing of envd's is
// there.
bool is_control_call(const http::RequestHead& request, std::string_view port) {
  return parse_port(port) == envd_tcp_port && request.target.starts_with("/sandboxes/");
}

Destination from_headers(const http::RequestHead& request) {
  const auto id = request.headers.get("E2b-Sandbox-Id");
  const auto port = request.headers.get("E2b-Sandbox-Port");
  if (!id && !port) return {};
  if (port && is_control_call(request, *port)) return {};
  if (!id) return BadTarget{"missing header: E2b-Sandbox-Id"};
  if (!port) return BadTarget{"missing header: E2b-Sandbox-Port"};
  return make_target(*id, *port, request.target);
}

Destination from_host(const http::RequestHead& request) {
  const std::string_view host = request.headers.get("Host").value_or("");
  const std::size_t dot = host.find('.');
  if (dot == std::string_view::npos) return {};
  std::string label(host.substr(0, dot));
  std::ranges::transform(label, label.begin(), http::lower);
  const std::size_t dash = label.find('-');
  if (dash == 0 || dash == std::string::npos) return {};
  const std::string_view port = std::string_view(label).substr(0, dash);
  if (!std::ranges::all_of(port, is_digit)) return {};
  if (!parse_port(port)) return BadTarget{"Invalid host"};
  return make_target(std::string_view(label).substr(dash + 1), port, request.target);
}

Destination from_path(const http::RequestHead& request) {
  std::string_view rest = request.target;
  if (!rest.starts_with(path_prefix)) return {};
  rest.remove_prefix(path_prefix.size());
  const std::string_view id = rest.substr(0, rest.find_first_of("/?"));
  rest.remove_prefix(id.size());
  if (!rest.starts_with('/')) return BadTarget{"Invalid path: expected /sandbox/{id}/{port}/"};
  rest.remove_prefix(1);
  const std::string_view port = rest.substr(0, rest.find_first_of("/?"));
  rest.remove_prefix(port.size());
  std::string target(rest);
  if (!target.starts_with('/')) target.insert(target.begin(), '/');
  return make_target(id, port, std::move(target));
}

// The path's segments as a server may see them: decoded, empty ones and dots resolved.
std::vector<std::string> segments_of(std::string_view decoded) {
  std::vector<std::string> segments;
  while (!decoded.empty()) {
    const std::string_view segment = decoded.substr(0, decoded.find('/'));
    decoded.remove_prefix(std::min(decoded.size(), segment.size() + 1));
    if (segment.empty() || segment == ".") continue;
    if (segment != "..")
      segments.emplace_back(segment);
    else if (!segments.empty())
      segments.pop_back();
  }
  return segments;
}

}  // namespace

Destination find_destination(const http::RequestHead& request) {
  for (const auto find : {from_headers, from_host, from_path}) {
    Destination destination = find(request);
    if (std::holds_alternative<std::monostate>(destination)) continue;
    if (request.method == "CONNECT")
      return BadTarget{"CONNECT is not for sandboxes; send the request itself"};
    return destination;
  }
  return {};
}

bool is_internal_envd_path(std::string_view path) {
  static constexpr std::array<std::string_view, 7> internal = {"init",     "freeze", "unfreeze", "collapse",
                                                               "fsfreeze", "fsthaw", "upgrade"};
  const auto decoded = http::percent_decode(path);
  if (!decoded) return false;  // no server reads a route from it
  const auto segments = segments_of(*decoded);
  return segments.size() == 1 && std::ranges::find(internal, segments.front()) != internal.end();
}

}  // namespace cube::proxy
