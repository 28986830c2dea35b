// Conditional requests (RFC 9110 section 13) for files, whose only validator is when they were modified.
#pragma once

#include <ctime>
#include <cube/http.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace cube::agent {

/// "Fri, 02 Jan 2026 03:04:05 GMT"
std::string http_date(time_t time);
std::optional<time_t> parse_http_date(std::string_view text);

enum class Condition {
  holds,
  failed,        ///< 412
  not_modified,  ///< 304
};

/// Of a GET or HEAD for a file that exists.
Condition check_conditions(const http::Headers& headers, time_t modified);

/// Whether the Range header counts: If-Range is absent, or names the file's date.
bool range_applies(const http::Headers& headers, time_t modified);

/// Whether any of the headers above is there, or Range: the answer is about the file's own bytes then.
bool is_conditional(const http::Headers& headers);

}  // namespace cube::agent
