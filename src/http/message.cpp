// Header lists, the parts of a target, reason phrases.
#include <algorithm>
#include <cube/http.hpp>

#include "http/text.hpp"

namespace cube::http {

std::string_view Headers::keep(std::string_view text) {
  constexpr std::size_t usual_count = 16;
  places_.reserve(usual_count);
  text_ = text;
  return text_;
}

void Headers::add_kept(std::string_view name, std::string_view value) {
  const auto offset = [this](std::string_view part) {
    return static_cast<std::size_t>(part.data() - text_.data());
  };
  places_.push_back({offset(name), name.size(), offset(value), value.size(), true});
}

void Headers::add(std::string_view name, std::string_view value) {
  places_.push_back({text_.size(), name.size(), text_.size() + name.size(), value.size(), false});
  text_.append(name).append(value);
}

void Headers::set(std::string_view name, std::string_view value) {
  remove(name);
  add(name, value);
}

void Headers::remove(std::string_view name) {
  remove_if([&](std::string_view each) { return same_ignoring_case(each, name); });
}

std::optional<std::string_view> Headers::get(std::string_view name) const {
  for (const Place& place : places_)
    if (place.name_bytes == name.size() && same_ignoring_case(at(place).first, name)) return at(place).second;
  return std::nullopt;
}

namespace {

/// Whether `accepts` is true of one of the tokens; those that follow it are not asked about.
template <class Condition>
bool any_token(const Headers& headers, std::string_view name, Condition accepts) {
  for (const auto& [each, value] : headers.fields()) {
    if (!same_ignoring_case(each, name)) continue;
    for (std::string_view rest = value; !rest.empty();) {
      const std::string_view item = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), item.size() + 1));
      if (accepts(trim(item))) return true;
    }
  }
  return false;
}

}  // namespace

bool has_token(const Headers& headers, std::string_view name, std::string_view token) {
  return any_token(headers, name, [&](std::string_view each) { return same_ignoring_case(each, token); });
}

std::vector<std::string_view> tokens_of(const Headers& headers, std::string_view name) {
  std::vector<std::string_view> tokens;
  any_token(headers, name, [&](std::string_view each) { return tokens.push_back(each), false; });
  return tokens;
}

std::string_view RequestHead::path() const {
  return std::string_view(target).substr(0, std::min(target.find('?'), target.size()));
}

std::string_view RequestHead::query() const {
  const std::size_t mark = target.find('?');
  return mark == std::string::npos ? std::string_view{} : std::string_view(target).substr(mark + 1);
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    default: return "Unknown";
  }
}

}  // namespace cube::http
