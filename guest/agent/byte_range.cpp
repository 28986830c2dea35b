#include "byte_range.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

#include "text.hpp"

namespace cube::agent {

namespace {

std::optional<std::uint64_t> parse_position(std::string_view text) {
  std::uint64_t number = 0;
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

RangeChoice choose_range(std::string_view range, std::uint64_t size) {
  const RangeChoice whole{RangeChoice::Kind::whole, 0, size};
  constexpr std::string_view unit = "bytes=";
  if (!same_ignoring_case(range.substr(0, unit.size()), unit)) return whole;
  const std::string_view text = trim(range.substr(unit.size()));
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return whole;
  const auto first = parse_position(trim(text.substr(0, dash)));
  const auto last = parse_position(trim(text.substr(dash + 1)));

  if (dash == 0) {  // the last so many bytes
    if (!last) return whole;
    const std::uint64_t length = std::min(*last, size);
    if (length == 0) return {RangeChoice::Kind::unsatisfiable, 0, 0};
    return {RangeChoice::Kind::part, size - length, length};
  }
  const bool open_ended = dash + 1 == text.size();
  if (!first || (!last && !open_ended) || (last && *last < *first)) return whole;
  if (*first >= size) return {RangeChoice::Kind::unsatisfiable, 0, 0};
  const std::uint64_t end = last ? std::min(*last, size - 1) : size - 1;
  return {RangeChoice::Kind::part, *first, end - *first + 1};
}

}  // namespace cube::agent
