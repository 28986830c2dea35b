#include "proxy/headers.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "proxy/access.hpp"

namespace cube::proxy {
namespace {

template <class Names>
bool contains(const Names& names, std::string_view name) {
  return std::ranges::any_of(names,
                             [&](std::string_view each) { return http::same_ignoring_case(each, name); });
}

constexpr std::array<std::string_view, 10> hop_by_hop = {
    "connection",        "keep-alive", "proxy-connection", "proxy-authenticate",  "te",
    "transfer-encoding", "trailer",    "upgrade",          "proxy-authorization", "expect"};

// Names the Connection header lists go too, but for those the message means nothing without: a client must
// not be able to take the length off its own body.
constexpr std::array<std::string_view, 3> essential = {"host", "content-length", "content-type"};

/// Whether a field of these headers goes no further than this connection.
bool is_hop_by_hop(const std::vector<std::string_view>& listed, std::string_view name) {
  return contains(hop_by_hop, name) || (contains(listed, name) && !contains(essential, name));
}

void add_switch(http::Headers& headers, const http::Headers& original) {
  headers.add("Connection", "Upgrade");
  if (const auto protocol = original.get("Upgrade")) headers.add("Upgrade", *protocol);
}

}  // namespace

bool asks_for_upgrade(const http::Headers& headers) {
  return headers.get("Upgrade") && http::has_token(headers, "connection", "upgrade");
}

bool has_body(const http::RequestHead& request) {
  if (request.headers.get("Transfer-Encoding")) return true;
  const auto length = request.headers.get("Content-Length");
  return length && *length != "0";
}

std::uint64_t announced_length(const http::RequestHead& request) {
  const auto length = request.headers.get("Content-Length").value_or("");
  std::uint64_t bytes = 0;  // what is no number was refused with the head
  std::from_chars(length.data(), length.data() + length.size(), bytes);
  return bytes;
}

http::RequestHead forwarded_request(const http::RequestHead& request, std::string target, bool upgrade) {
  const auto listed = http::tokens_of(request.headers, "connection");
  http::RequestHead head{request.method, std::move(target), request.headers};
  head.headers.remove_if([&](std::string_view name) {
    // The token is a secret between the client and the proxy.
    return is_hop_by_hop(listed, name) || http::same_ignoring_case(name, traffic_token_header);
  });
  if (request.headers.get("Transfer-Encoding")) head.headers.add("Transfer-Encoding", "chunked");
  if (upgrade) add_switch(head.headers, request.headers);
  return head;
}

void mask_host(http::Headers& headers, std::string_view mask, std::uint16_t port) {
  static constexpr std::string_view placeholder = "${PORT}";
  std::string host(mask);
  for (std::size_t at = 0; (at = host.find(placeholder, at)) != std::string::npos;)
    host.replace(at, placeholder.size(), std::to_string(port));
  const std::string original(headers.get("Host").value_or(""));
  headers.set("Host", host);
  headers.set("X-Forwarded-Host", original);
}

http::ResponseHead forwarded_response(http::ResponseHead response) {
  const auto listed = http::tokens_of(response.headers, "connection");
  response.headers.remove_if([&](std::string_view name) { return is_hop_by_hop(listed, name); });
  return response;
}

http::ResponseHead forwarded_switch(const http::ResponseHead& response) {
  http::ResponseHead head = forwarded_response(response);
  add_switch(head.headers, response.headers);
  return head;
}

}  // namespace cube::proxy
