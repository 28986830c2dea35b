#include "conditions.hpp"

#include <algorithm>
#include <array>

#include "text.hpp"

namespace cube::agent {
namespace {

std::optional<time_t> date_in(const http::Headers& headers, std::string_view name) {
  const auto text = headers.get(name);
  return text ? parse_http_date(trim(*text)) : std::nullopt;
}

}  // namespace

std::string http_date(time_t time) {
  struct tm parts {};
  ::gmtime_r(&time, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts));
}

std::optional<time_t> parse_http_date(std::string_view text) {
  const std::string date(text);
  struct tm parts {};
  const char* end = ::strptime(date.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  if (!end || *end != '\0' || date.size() != 29) return std::nullopt;
  // strptime() forgives spaces, short years and whole names; a date is only what is written as one.
  const time_t time = ::timegm(&parts);
  return http_date(time) == date ? std::optional(time) : std::nullopt;
}

// In the order of section 13.2.2. There are no entity tags: "*" is the only one that matches.
Condition check_conditions(const http::Headers& headers, time_t modified) {
  if (const auto match = headers.get("If-Match")) {
    if (trim(*match) != "*") return Condition::failed;
  } else if (const auto date = date_in(headers, "If-Unmodified-Since"); date && modified > *date) {
    return Condition::failed;
  }
  if (const auto none = headers.get("If-None-Match")) {
    if (trim(*none) == "*") return Condition::not_modified;
  } else if (const auto date = date_in(headers, "If-Modified-Since"); date && modified <= *date) {
    return Condition::not_modified;
  }
  return Condition::holds;
}

bool range_applies(const http::Headers& headers, time_t modified) {
  return !headers.get("If-Range") || date_in(headers, "If-Range") == modified;
}

bool is_conditional(const http::Headers& headers) {
  constexpr std::array<std::string_view, 6> names{
      "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"};
  return std::ranges::any_of(names, [&](std::string_view name) { return headers.get(name).has_value(); });
}

}  // namespace cube::agent
