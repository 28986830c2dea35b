#include "api/query_parameters.hpp"

#include <algorithm>
#include <charconv>
#include <cube/http.hpp>

namespace cube::api {

Error parameter_error(std::string_view name, std::string_view what) {
  return make_error(ErrorCode::invalid_argument,
                    "validation error: parameter '" + std::string(name) + "' " + std::string(what));
}

std::optional<std::string> unescape(std::string_view text) {
  std::string spaced(text);
  std::ranges::replace(spaced, '+', ' ');
  return http::percent_decode(spaced);
}

std::string_view take_until(std::string_view& rest, char separator) {
  const std::string_view item = rest.substr(0, rest.find(separator));
  rest.remove_prefix(std::min(rest.size(), item.size() + 1));
  return item;
}

Result<Parameters> read_parameters(std::string_view query) {
  Parameters parameters;
  while (!query.empty()) {
    const std::string_view pair = take_until(query, '&');
    const std::size_t equals = std::min(pair.find('='), pair.size());
    auto name = unescape(pair.substr(0, equals));
    auto value = unescape(pair.substr(std::min(equals + 1, pair.size())));
    if (!name || !value) return make_error(ErrorCode::invalid_argument, "validation error: malformed query");
    parameters.emplace(std::move(*name), std::move(*value));
  }
  return parameters;
}

Result<void> read_number(std::string_view name, std::string_view text, NumberRange range,
                         std::int64_t& number) {
  std::int64_t read = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), read);
  if (error != std::errc{} || end != text.data() + text.size() || read < range.least || read > range.most)
    return parameter_error(
        name, "must be a number from " + std::to_string(range.least) + " to " + std::to_string(range.most));
  number = read;
  return {};
}

}  // namespace cube::api
