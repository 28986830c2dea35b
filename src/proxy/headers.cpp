#include "proxy/headers.hpp"

#include <algorithm>
#include <set>

namespace cube::proxy {
namespace {

using Names = std::set<std::string, std::less<>>;

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  });
  return result;
}

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

Names connection_tokens(const http::Headers& headers) {
  Names tokens;
  for (const auto& [name, value] : headers.fields()) {
    if (lower(name) != "connection") continue;
    for (std::string_view rest = value; !rest.empty();) {
      const std::string_view item = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), item.size() + 1));
      tokens.insert(lower(trim(item)));
    }
  }
  return tokens;
}

// Names the Connection header lists go too, but for those the message means nothing without: a client must
// not be able to take the length off its own body.
http::Headers end_to_end(const http::Headers& headers) {
  static const Names hop_by_hop = {"connection",
                                   "keep-alive",
                                   "proxy-connection",
                                   "proxy-authenticate",
                                   "te",
                                   "transfer-encoding",
                                   "trailer",
                                   "proxy-authorization",
                                   "upgrade",
                                   "expect"};
  static const Names essential = {"host", "content-length", "content-type"};
  const Names listed = connection_tokens(headers);
  http::Headers kept;
  for (const auto& [name, value] : headers.fields()) {
    const std::string lowered = lower(name);
    if (hop_by_hop.contains(lowered)) continue;
    if (listed.contains(lowered) && !essential.contains(lowered)) continue;
    kept.add(name, value);
  }
  return kept;
}

void add_switch(http::Headers& headers, const http::Headers& original) {
  headers.add("Connection", "Upgrade");
  if (const auto protocol = original.get("Upgrade")) headers.add("Upgrade", std::string(*protocol));
}

}  // namespace

bool asks_for_upgrade(const http::Headers& headers) {
  return headers.get("Upgrade") && connection_tokens(headers).contains("upgrade");
}

bool has_body(const http::RequestHead& request) {
  if (request.headers.get("Transfer-Encoding")) return true;
  const auto length = request.headers.get("Content-Length");
  return length && *length != "0";
}

http::RequestHead forwarded_request(const http::RequestHead& request, std::string target, bool upgrade) {
  http::RequestHead head{request.method, std::move(target), end_to_end(request.headers)};
  if (request.headers.get("Transfer-Encoding")) head.headers.add("Transfer-Encoding", "chunked");
  if (upgrade) add_switch(head.headers, request.headers);
  return head;
}

http::ResponseHead forwarded_response(const http::ResponseHead& response) {
  return {response.status, end_to_end(response.headers)};
}

http::ResponseHead forwarded_switch(const http::ResponseHead& response) {
  http::ResponseHead head = forwarded_response(response);
  add_switch(head.headers, response.headers);
  return head;
}

}  // namespace cube::proxy
