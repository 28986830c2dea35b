#include "content_coding.hpp"

#include "text.hpp"

namespace cube::agent {
namespace {

constexpr int full_weight = 1000;

/// "0.25" is 250; nothing for what RFC 9110 section 12.4.2 does not allow.
std::optional<int> parse_weight(std::string_view text) {
  if (text.empty() || (text.front() != '0' && text.front() != '1') || text.size() > 5) return std::nullopt;
  int weight = (text.front() - '0') * full_weight;
  text.remove_prefix(1);
  if (text.empty()) return weight;
  if (text.front() != '.') return std::nullopt;
  int unit = full_weight / 10;
  for (const char c : text.substr(1)) {
    if (c < '0' || c > '9') return std::nullopt;
    weight += (c - '0') * unit;
    unit /= 10;
  }
  return weight <= full_weight ? std::optional(weight) : std::nullopt;
}

/// Of ";q=0.5"; a malformed one counts as none.
int weight_of(std::string_view parameters) {
  while (!parameters.empty()) {
    parameters.remove_prefix(1);
    const std::string_view one = trim(parameters.substr(0, parameters.find(';')));
    if (same_ignoring_case(one.substr(0, 2), "q=")) return parse_weight(one.substr(2)).value_or(full_weight);
    parameters.remove_prefix(std::min(parameters.size(), parameters.find(';')));
  }
  return full_weight;
}

}  // namespace

std::optional<ContentCoding> choose_coding(std::string_view accept_encoding) {
  std::optional<int> gzip, identity, any;
  bool others = false;
  while (!accept_encoding.empty()) {
    const std::size_t comma = std::min(accept_encoding.find(','), accept_encoding.size());
    const std::string_view item = trim(accept_encoding.substr(0, comma));
    accept_encoding.remove_prefix(std::min(accept_encoding.size(), comma + 1));
    const std::size_t semicolon = std::min(item.find(';'), item.size());
    const std::string_view name = trim(item.substr(0, semicolon));
    const int weight = weight_of(item.substr(semicolon));
    if (same_ignoring_case(name, "gzip") || same_ignoring_case(name, "x-gzip"))
      gzip = weight;
    else if (same_ignoring_case(name, "identity"))
      identity = weight;
    else if (name == "*")
      any = weight;
    else if (!name.empty() && weight > 0)
      others = true;
  }
  const bool identity_acceptable = identity.value_or(any.value_or(full_weight)) > 0;
  const bool gzip_acceptable = gzip.value_or(any.value_or(0)) > 0;
  if (!identity_acceptable && !gzip_acceptable) return std::nullopt;
  if (!identity_acceptable) return ContentCoding::gzip;
  const bool preferred = gzip && *gzip > 0 && (identity ? *gzip > *identity : !others);
  return preferred ? ContentCoding::gzip : ContentCoding::identity;
}

}  // namespace cube::agent
