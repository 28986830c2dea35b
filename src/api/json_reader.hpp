// Reading request bodies: typed fields over simdjson, with errors that name the field.
//
// A field that is null counts as left out: SDKs send null for what their caller did not set.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <cube/core.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace cube::api {

using JsonValue = simdjson::dom::element;
using StringMap = std::map<std::string, std::string>;

/// The body's object, valid as long as `parser`. `invalid_argument` for anything else.
Result<simdjson::dom::object> parse_object(simdjson::dom::parser& parser, std::string_view text);

/// `invalid_argument` "validation error: field 'x' …"
Error field_error(std::string_view field, std::string_view what);

Result<void> read_field(JsonValue value, std::string_view field,
                        std::string& out);  ///< without NUL characters
Result<void> read_field(JsonValue value, std::string_view field, std::optional<std::int64_t>& out);
Result<void> read_field(JsonValue value, std::string_view field, std::optional<bool>& out);

struct StringMapLimits {
  std::size_t entries = 256;
  std::size_t bytes = 64 << 10;  ///< of all names and values
};
Result<void> read_field(JsonValue value, std::string_view field, StringMap& out, StringMapLimits limits);

/// For fields this server does not have yet: null and values that ask for nothing (false, "", [], {}) pass;
/// `unimplemented` names the member that asks for something, a value of another type than `type` is
/// `invalid_argument`.
Result<void> accept_only_default(JsonValue value, std::string_view field, simdjson::dom::element_type type);

/// For fields nobody knows: the same, but `invalid_argument`.
Result<void> refuse_unknown(JsonValue value, std::string_view field);

}  // namespace cube::api
