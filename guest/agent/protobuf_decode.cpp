#include <simdjson.h>

#include <cube/core.hpp>
#include <map>
#include <protozero/exception.hpp>
#include <protozero/pbf_reader.hpp>
#include <protozero/varint.hpp>
#include <vector>

#include "protobuf_transcoder.hpp"
#include "rpc.hpp"

namespace cube::agent::protobuf {
namespace {

/// What a message holds of one field.
struct Found {
  bool present = false;
  std::uint64_t number = 0;              ///< the last one
  std::vector<std::string_view> pieces;  ///< all of them, where they are delimited by length
};

Error invalid(std::string message) { return make_error(ErrorCode::invalid_argument, std::move(message)); }

Error invalid_field(const Message& type, const Field& field, std::string_view what) {
  return invalid("field '" + std::string(field.name) + "' of " + std::string(type.name) + ' ' +
                 std::string(what));
}

protozero::data_view view_of(std::string_view text) { return {text.data(), text.size()}; }

std::string_view text_of(protozero::data_view view) { return {view.data(), view.size()}; }

bool is_varint(Kind kind) {
  return kind == Kind::boolean || kind == Kind::int64 || kind == Kind::uint32 || kind == Kind::sint32 ||
         kind == Kind::enumeration;
}

/// Null also if the field is there in another wire type: then it is somebody else's field of that number.
const Field* find_field(const Message& type, const protozero::pbf_reader& reader) {
  for (const Field& field : type.fields) {
    if (field.number != reader.tag()) continue;
    const auto wanted =
        is_varint(field.kind) ? protozero::pbf_wire_type::varint : protozero::pbf_wire_type::length_delimited;
    return reader.has_wire_type(wanted) ? &field : nullptr;
  }
  return nullptr;
}

void clear_other_members(const Message& type, std::vector<Found>& found, std::size_t except) {
  for (std::size_t i = 0; i < found.size(); ++i)
    if (i != except && type.fields[i].presence == Presence::oneof) found[i] = {};
}

Result<std::vector<Found>> find_fields(const Message& type, std::string_view wire) {
  std::vector<Found> found(type.fields.size());
  protozero::pbf_reader reader(view_of(wire));
  while (reader.next()) {
    const Field* field = find_field(type, reader);
    if (!field) {
      reader.skip();
      continue;
    }
    const auto index = static_cast<std::size_t>(field - type.fields.data());
    if (field->presence == Presence::oneof) clear_other_members(type, found, index);
    Found& place = found[index];
    place.present = true;
    if (is_varint(field->kind)) {
      place.number = reader.get_uint64();
      continue;
    }
    const bool collects = field->presence == Presence::repeated || field->kind == Kind::message ||
                          field->kind == Kind::timestamp || field->kind == Kind::string_map;
    if (!collects) place.pieces.clear();  // the last one counts
    if (place.pieces.size() == element_limit)
      return invalid_field(type, *field, "has more than " + std::to_string(element_limit) + " elements");
    place.pieces.push_back(text_of(reader.get_view()));
  }
  return found;
}

/// A message that comes in parts is the one of their bytes joined.
std::string joined(const std::vector<std::string_view>& pieces) {
  std::string whole;
  for (const std::string_view piece : pieces) whole += piece;
  return whole;
}

Result<void> append_string(JsonWriter& json, const Message& type, const Field& field, std::string_view text) {
  if (!simdjson::validate_utf8(text.data(), text.size())) return invalid_field(type, field, "is not UTF-8");
  json.value(text);
  return {};
}

Result<void> append_map(JsonWriter& json, const Message& type, const Field& field, const Found& found) {
  std::map<std::string_view, std::string_view> entries;
  for (const std::string_view piece : found.pieces) {
    std::string_view key, value;
    protozero::pbf_reader reader(view_of(piece));
    while (reader.next()) {
      const bool text = reader.has_wire_type(protozero::pbf_wire_type::length_delimited);
      if (text && reader.tag() == 1)
        key = text_of(reader.get_view());
      else if (text && reader.tag() == 2)
        value = text_of(reader.get_view());
      else
        reader.skip();
    }
    entries.insert_or_assign(key, value);
  }
  json.begin_object();
  for (const auto& [key, value] : entries) {
    if (!simdjson::validate_utf8(key.data(), key.size())) return invalid_field(type, field, "is not UTF-8");
    json.key(key);
    CUBE_TRY(append_string(json, type, field, value));
  }
  json.end_object();
  return {};
}

Result<void> append_timestamp(JsonWriter& json, const Message& type, const Field& field,
                              std::string_view wire) {
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
  protozero::pbf_reader reader(view_of(wire));
  while (reader.next()) {
    const bool number = reader.has_wire_type(protozero::pbf_wire_type::varint);
    if (number && reader.tag() == 1)
      seconds = reader.get_int64();
    else if (number && reader.tag() == 2)
      nanoseconds = reader.get_int64();
    else
      reader.skip();
  }
  const bool possible = nanoseconds >= 0 && nanoseconds < 1'000'000'000;
  const timespec time{static_cast<time_t>(seconds), possible ? static_cast<long>(nanoseconds) : 0};
  const std::string text = rfc3339(time);
  const auto again = parse_rfc3339(text);
  if (!possible || !again || again->tv_sec != time.tv_sec) return invalid_field(type, field, "is no moment");
  json.value(text);
  return {};
}

void append_enumeration(JsonWriter& json, const Field& field, std::int32_t number) {
  for (const EnumValue& value : field.values)
    if (value.number == number) return static_cast<void>(json.value(value.name));
  json.value(number);  // proto3's enums are open
}

void append_number(JsonWriter& json, const Field& field, std::uint64_t number) {
  switch (field.kind) {
    case Kind::boolean: json.value(number != 0); break;
    case Kind::uint32: json.value(static_cast<std::uint32_t>(number)); break;
    case Kind::sint32: json.value(protozero::decode_zigzag32(static_cast<std::uint32_t>(number))); break;
    case Kind::enumeration: append_enumeration(json, field, static_cast<std::int32_t>(number)); break;
    default: json.value(std::to_string(static_cast<std::int64_t>(number)));
  }
}

Result<void> append_message(JsonWriter& json, const Message& type, std::string_view wire);

Result<void> append_piece(JsonWriter& json, const Message& type, const Field& field, std::string_view piece) {
  switch (field.kind) {
    case Kind::message: return append_message(json, *field.message, piece);
    case Kind::timestamp: return append_timestamp(json, type, field, piece);
    case Kind::bytes: json.value(base64_encode(piece)); return {};
    default: return append_string(json, type, field, piece);
  }
}

bool is_default(const Field& field, const Found& found) {
  if (field.presence != Presence::implicit) return false;
  switch (field.kind) {
    case Kind::int64: return found.number == 0;
    case Kind::boolean: return found.number == 0;
    case Kind::uint32:
    case Kind::sint32:
    case Kind::enumeration: return static_cast<std::uint32_t>(found.number) == 0;
    case Kind::string:
    case Kind::bytes: return found.pieces.back().empty();
    default: return false;
  }
}

Result<void> append_field(JsonWriter& json, const Message& type, const Field& field, const Found& found) {
  if (is_varint(field.kind)) {
    append_number(json, field, found.number);
    return {};
  }
  if (field.kind == Kind::string_map) return append_map(json, type, field, found);
  if (field.presence == Presence::repeated) {
    json.begin_array();
    for (const std::string_view piece : found.pieces) CUBE_TRY(append_piece(json, type, field, piece));
    json.end_array();
    return {};
  }
  if (found.pieces.size() == 1) return append_piece(json, type, field, found.pieces.front());
  return append_piece(json, type, field, joined(found.pieces));
}

Result<void> append_message(JsonWriter& json, const Message& type, std::string_view wire) {
  const auto found = find_fields(type, wire);
  if (!found.ok()) return found.error();
  json.begin_object();
  for (std::size_t i = 0; i < type.fields.size(); ++i) {
    if (!(*found)[i].present || is_default(type.fields[i], (*found)[i])) continue;
    json.key(type.fields[i].name);
    CUBE_TRY(append_field(json, type, type.fields[i], (*found)[i]));
  }
  json.end_object();
  return {};
}

}  // namespace

Result<std::string> to_json(const Message& type, std::string_view wire) {
  try {
    JsonWriter json;
    CUBE_TRY(append_message(json, type, wire));
    return json.take();
  } catch (const protozero::exception& exception) {
    return invalid("malformed protobuf message: " + std::string(exception.what()));
  }
}

}  // namespace cube::agent::protobuf
