// What HTTP and MIME headers are made of; ASCII only, whatever the locale.
#pragma once

#include <algorithm>
#include <cube/http.hpp>
#include <string_view>

namespace cube::agent {

using http::lower;
using http::same_ignoring_case;

constexpr std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// RFC 9110: what names of headers and parameters are.
constexpr bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return c > ' ' && c < '\x7f' && std::string_view("\"(),/:;<=>?@[\\]{}").find(c) == std::string_view::npos;
  });
}

/// "text/html" of "Text/HTML; charset=utf-8", as sent.
constexpr std::string_view media_type(std::string_view content_type) {
  return trim(content_type.substr(0, content_type.find(';')));
}

}  // namespace cube::agent
