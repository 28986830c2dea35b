// The messages of process.Process and filesystem.Filesystem as data: what protobuf needs to know that JSON
// does not.
//
// Field numbers and names are those of E2B's spec/envd/{process,filesystem}/*.proto. No message contains
// itself, so whoever follows these tables nests no deeper than they do.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace cube::agent::protobuf {

enum class Kind {
  string,
  bytes,  ///< base64 in JSON
  boolean,
  int64,  ///< text in JSON
  uint32,
  sint32,
  enumeration,  ///< the value's name in JSON
  timestamp,    ///< google.protobuf.Timestamp; RFC 3339 in JSON
  message,
  string_map,  ///< map<string, string>; an object in JSON
};

enum class Presence {
  implicit,    ///< proto3's default: not written if it is zero or empty
  explicitly,  ///< "optional": written whenever it was set
  oneof,       ///< setting it clears the other members; no message here has more than one oneof
  repeated,
};

struct EnumValue {
  std::int32_t number;
  std::string_view name;
};

struct Message;

struct Field {
  std::uint32_t number;
  std::string_view name;  ///< in JSON
  Kind kind;
  Presence presence = Presence::implicit;
  const Message* message = nullptr;        ///< of Kind::message
  std::span<const EnumValue> values = {};  ///< of Kind::enumeration
};

struct Message {
  std::string_view name;
  std::span<const Field> fields;
};

/// What goes in and comes out of a method, each message of a stream.
struct MethodTypes {
  std::string_view path;  ///< "/process.Process/Start"
  const Message* request;
  const Message* response;
};

std::span<const MethodTypes> all_methods();

/// Null if no service here has it.
const MethodTypes* find_method(std::string_view path);

}  // namespace cube::agent::protobuf
