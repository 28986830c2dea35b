// protobuf wire format to proto3 JSON and back, by the tables of protobuf_schema.hpp.
//
// The services speak JSON; a client that speaks protobuf pays for the translation. Fields no table has are
// skipped, as protobuf wants it. Nesting is bounded by the tables, size by who reads the message.
#pragma once

#include <cube/core.hpp>
#include <string>
#include <string_view>

#include "protobuf_schema.hpp"

namespace cube::agent::protobuf {

/// At most so many elements of one repeated field or map.
inline constexpr std::size_t element_limit = 1 << 18;

/// `invalid_argument` for what is not a message of the type. Zero and empty members are left out, unless
/// their presence means something.
Result<std::string> to_json(const Message& type, std::string_view wire);

/// `internal` for JSON that is not a message of the type, also if it has a member the type lacks.
Result<std::string> from_json(const Message& type, std::string_view json);

}  // namespace cube::agent::protobuf
