#include "http/http2_head.hpp"

#include <array>

#include "http/text.hpp"

namespace cube::http {
namespace {

// RFC 9113 section 8.2.2.
constexpr std::array<std::string_view, 5> connection_fields = {"connection", "keep-alive", "proxy-connection",
                                                               "transfer-encoding", "upgrade"};

bool is_connection_field(std::string_view lower_name) {
  return std::ranges::find(connection_fields, lower_name) != connection_fields.end();
}

bool is_lower_token(std::string_view text) {
  return is_token(text) && std::ranges::none_of(text, [](char c) { return c >= 'A' && c <= 'Z'; });
}

bool is_visible(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

/// The pseudo-header fields of a request; empty ones did not come.
struct Pseudo {
  std::string method, scheme, authority, path;

  std::string* find(std::string_view name) {
    if (name == ":method") return &method;
    if (name == ":scheme") return &scheme;
    if (name == ":authority") return &authority;
    if (name == ":path") return &path;
    return nullptr;
  }
};

std::optional<Refusal> take_pseudo(Pseudo& pseudo, const std::string& name, std::string& value,
                                   bool after_others) {
  std::string* const place = pseudo.find(name);
  if (place == nullptr) return Refusal{400, "unknown pseudo-header field"};
  if (after_others) return Refusal{400, "a pseudo-header field after the others"};
  if (!place->empty()) return Refusal{400, "more than one " + name};
  if (!is_visible(value)) return Refusal{400, "malformed " + name};
  *place = std::move(value);
  return std::nullopt;
}

std::optional<Refusal> check_field(const std::string& name, const std::string& value) {
  if (!is_lower_token(name)) return Refusal{400, "malformed header field name"};
  if (!is_field_value(value)) return Refusal{400, "control character in a header field value"};
  if (is_connection_field(name)) return Refusal{400, "the header field " + name + " is not for HTTP/2"};
  // It is between the client and us, and says nothing but this.
  if (name == "te" && !same_ignoring_case(trim(value), "trailers"))
    return Refusal{400, "the header field te may only say trailers"};
  return std::nullopt;
}

std::optional<Refusal> check_pseudo(const Pseudo& pseudo) {
  if (pseudo.method.empty() || pseudo.scheme.empty()) return Refusal{400, "missing pseudo-header field"};
  if (!is_token(pseudo.method)) return Refusal{400, "malformed :method"};
  if (pseudo.scheme != "https" && pseudo.scheme != "http") return Refusal{400, "unknown :scheme"};
  if (pseudo.path.empty()) return Refusal{400, "missing :path"};
  const bool asterisk = pseudo.path == "*" && pseudo.method == "OPTIONS";
  if (!pseudo.path.starts_with('/') && !asterisk) return Refusal{400, "malformed :path"};
  // A user name before the host would be one more way to read it.
  if (pseudo.authority.find_first_of("@/?#\\,") != std::string::npos)
    return Refusal{400, "malformed :authority"};
  return std::nullopt;
}

std::optional<Refusal> settle_host(Headers& headers, const Pseudo& pseudo) {
  std::optional<std::string_view> host;
  for (const auto& [name, value] : headers.fields()) {
    if (name != "host") continue;
    if (host) return Refusal{400, "more than one Host"};
    host = value;
  }
  if (pseudo.authority.empty())
    return host ? std::nullopt : std::optional(Refusal{400, "missing :authority"});
  if (host && !same_ignoring_case(*host, pseudo.authority))
    return Refusal{400, ":authority and Host name different hosts"};
  headers.set("host", pseudo.authority);
  return std::nullopt;
}

std::optional<Refusal> settle_framing(ParsedRequest& request, bool has_body) {
  Headers& headers = request.head.headers;
  std::size_t count = 0;
  for (const auto& [name, value] : headers.fields()) count += name == "content-length" ? 1 : 0;
  if (count > 1) return Refusal{400, "more than one Content-Length"};
  if (const auto length = headers.get("content-length")) {
    const auto number = parse_decimal(*length);
    const bool digits = !length->empty() && length->find_first_not_of("0123456789") == std::string_view::npos;
    if (!digits) return Refusal{400, "malformed Content-Length"};
    if (!number) return Refusal{413, "the body is too large"};
    if (*number > 0 && !has_body) return Refusal{400, "Content-Length without a body"};
    request.framing = {Framing::Kind::length, *number};
  } else if (has_body) {
    headers.add("transfer-encoding", "chunked");
    request.framing.kind = Framing::Kind::chunked;
  } else if (request.head.method == "POST" || request.head.method == "PUT" ||
             request.head.method == "PATCH") {
    headers.add("content-length", "0");
  }
  return std::nullopt;
}

}  // namespace

std::variant<ParsedRequest, Refusal> make_request_head(Http2Fields fields, bool has_body) {
  ParsedRequest request;
  Pseudo pseudo;
  std::string cookies;
  bool others = false;
  for (auto& [name, value] : fields) {
    if (name.starts_with(':')) {
      if (auto refusal = take_pseudo(pseudo, name, value, others)) return *refusal;
      continue;
    }
    others = true;
    if (auto refusal = check_field(name, value)) return *refusal;
    if (name == "te") continue;
    if (name == "cookie") {  // may come in crumbs (RFC 9113 section 8.2.3)
      cookies.append(cookies.empty() ? "" : "; ").append(value);
      continue;
    }
    request.head.headers.add(name, trim(value));
  }
  if (pseudo.method == "CONNECT") return Refusal{501, "CONNECT is not for HTTP/2 here"};
  if (auto refusal = check_pseudo(pseudo)) return *refusal;
  if (!cookies.empty()) request.head.headers.add("cookie", cookies);
  if (auto refusal = settle_host(request.head.headers, pseudo)) return *refusal;
  request.head.method = std::move(pseudo.method);
  request.head.target = std::move(pseudo.path);
  if (auto refusal = settle_framing(request, has_body)) return *refusal;
  request.expects_continue = has_token(request.head.headers, "expect", "100-continue");
  return request;
}

Http2Fields make_response_fields(const ResponseHead& head) {
  Http2Fields fields;
  fields.emplace_back(":status", std::to_string(head.status));
  for (const auto& [name, value] : head.headers.fields()) {
    std::string lowered(name);
    std::ranges::transform(lowered, lowered.begin(), lower);
    // Those the Connection header names belong to the connection as well.
    if (is_connection_field(lowered) || has_token(head.headers, "connection", lowered)) continue;
    fields.emplace_back(std::move(lowered), std::string(trim(value)));
  }
  return fields;
}

}  // namespace cube::http
