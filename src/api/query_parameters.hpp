// What comes after '?' in a request: its parameters, with errors that name them.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace cube::api {

using Parameters = std::map<std::string, std::string>;

/// Names and values, decoded; of parameters with the same name the first counts. `invalid_argument` if the
/// encoding is malformed.
Result<Parameters> read_parameters(std::string_view query);

/// `invalid_argument` "validation error: parameter 'x' …"
Error parameter_error(std::string_view name, std::string_view what);

struct NumberRange {
  std::int64_t least, most;
};

/// All digits of one number, in the range.
Result<void> read_number(std::string_view name, std::string_view text, NumberRange range,
                         std::int64_t& number);

/// One layer of query encoding: '+' is a space.
std::optional<std::string> unescape(std::string_view text);

/// What comes before the separator, or all of it; both are gone from `rest` then.
std::string_view take_until(std::string_view& rest, char separator);

}  // namespace cube::api
