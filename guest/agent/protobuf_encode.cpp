#include <simdjson.h>

#include <charconv>
#include <cube/core.hpp>
#include <limits>
#include <optional>
#include <protozero/pbf_writer.hpp>

#include "protobuf_transcoder.hpp"
#include "rpc.hpp"

namespace cube::agent::protobuf {
namespace {

using Element = simdjson::dom::element;

// No message nests deeper than six.
constexpr std::size_t depth_limit = 64;

Error unfit(const Message& type, std::string_view member) {
  return make_error(ErrorCode::internal,
                    "'" + std::string(member) + "' does not fit " + std::string(type.name));
}

const Field* find_field(const Message& type, std::string_view name) {
  for (const Field& field : type.fields)
    if (field.name == name) return &field;
  return nullptr;
}

std::optional<std::string_view> string_of(Element element) {
  std::string_view text;
  if (element.get(text) != simdjson::SUCCESS) return std::nullopt;
  return text;
}

/// A number, or the text of one.
std::optional<std::int64_t> integer_of(Element element, std::int64_t lowest, std::int64_t highest) {
  std::int64_t number = 0;
  if (const auto text = string_of(element)) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
    if (text->empty() || error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  } else if (element.get(number) != simdjson::SUCCESS) {
    return std::nullopt;
  }
  if (number < lowest || number > highest) return std::nullopt;
  return number;
}

std::optional<std::int64_t> enumeration_of(const Field& field, Element element) {
  if (const auto name = string_of(element)) {
    for (const EnumValue& value : field.values)
      if (value.name == *name) return value.number;
    return std::nullopt;
  }
  return integer_of(element, std::numeric_limits<std::int32_t>::min(),
                    std::numeric_limits<std::int32_t>::max());
}

/// The number of a field that is written as one.
std::optional<std::int64_t> number_of(const Field& field, Element element) {
  using std::numeric_limits;
  bool boolean = false;
  switch (field.kind) {
    case Kind::boolean:
      if (element.get(boolean) != simdjson::SUCCESS) return std::nullopt;
      return boolean ? 1 : 0;
    case Kind::uint32: return integer_of(element, 0, numeric_limits<std::uint32_t>::max());
    case Kind::sint32:
      return integer_of(element, numeric_limits<std::int32_t>::min(), numeric_limits<std::int32_t>::max());
    case Kind::enumeration: return enumeration_of(field, element);
    default:
      return integer_of(element, numeric_limits<std::int64_t>::min(), numeric_limits<std::int64_t>::max());
  }
}

void write_number(protozero::pbf_writer& out, const Field& field, std::int64_t number) {
  switch (field.kind) {
    case Kind::boolean: out.add_bool(field.number, number != 0); break;
    case Kind::uint32: out.add_uint32(field.number, static_cast<std::uint32_t>(number)); break;
    case Kind::sint32: out.add_sint32(field.number, static_cast<std::int32_t>(number)); break;
    case Kind::enumeration: out.add_enum(field.number, static_cast<std::int32_t>(number)); break;
    default: out.add_int64(field.number, number);
  }
}

bool is_number(Kind kind) {
  return kind == Kind::boolean || kind == Kind::int64 || kind == Kind::uint32 || kind == Kind::sint32 ||
         kind == Kind::enumeration;
}

Result<std::string> encode_message(const Message& type, Element element);

Result<std::string> encode_timestamp(const Message& type, const Field& field, Element element) {
  const auto text = string_of(element);
  const auto time = text ? parse_rfc3339(*text) : std::nullopt;
  if (!time) return unfit(type, field.name);
  std::string wire;
  protozero::pbf_writer out(wire);
  if (time->tv_sec != 0) out.add_int64(1, time->tv_sec);
  if (time->tv_nsec != 0) out.add_int32(2, static_cast<std::int32_t>(time->tv_nsec));
  return wire;
}

/// The content of a field that is delimited by its length.
Result<std::string> encode_content(const Message& type, const Field& field, Element element) {
  if (field.kind == Kind::message) return encode_message(*field.message, element);
  if (field.kind == Kind::timestamp) return encode_timestamp(type, field, element);
  const auto text = string_of(element);
  if (!text) return unfit(type, field.name);
  if (field.kind == Kind::string) return std::string(*text);
  auto bytes = base64_decode(*text);
  if (!bytes) return unfit(type, field.name);
  return std::move(*bytes);
}

Result<void> write_map(protozero::pbf_writer& out, const Message& type, const Field& field, Element element) {
  simdjson::dom::object object;
  if (element.get(object) != simdjson::SUCCESS) return unfit(type, field.name);
  for (const simdjson::dom::key_value_pair member : object) {
    const auto value = string_of(member.value);
    if (!value) return unfit(type, field.name);
    std::string entry;
    protozero::pbf_writer pair(entry);
    pair.add_string(1, member.key.data(), member.key.size());
    pair.add_string(2, value->data(), value->size());
    out.add_message(field.number, entry);
  }
  return {};
}

Result<void> write_one(protozero::pbf_writer& out, const Message& type, const Field& field, Element element) {
  const bool implicit = field.presence == Presence::implicit;
  if (is_number(field.kind)) {
    const auto number = number_of(field, element);
    if (!number) return unfit(type, field.name);
    if (*number != 0 || !implicit) write_number(out, field, *number);
    return {};
  }
  if (field.kind == Kind::string_map) return write_map(out, type, field, element);
  const auto content = encode_content(type, field, element);
  if (!content.ok()) return content.error();
  const bool plain = field.kind == Kind::string || field.kind == Kind::bytes;
  if (!content->empty() || !plain || !implicit) out.add_bytes(field.number, *content);
  return {};
}

Result<void> write_field(protozero::pbf_writer& out, const Message& type, const Field& field,
                         Element element) {
  if (element.is_null()) return {};
  if (field.presence != Presence::repeated) return write_one(out, type, field, element);
  simdjson::dom::array array;
  if (element.get(array) != simdjson::SUCCESS) return unfit(type, field.name);
  for (const Element item : array) CUBE_TRY(write_one(out, type, field, item));
  return {};
}

Result<std::string> encode_message(const Message& type, Element element) {
  simdjson::dom::object object;
  if (element.get(object) != simdjson::SUCCESS) return unfit(type, "a value that is no object");
  std::string wire;
  protozero::pbf_writer out(wire);
  for (const simdjson::dom::key_value_pair member : object) {
    const Field* field = find_field(type, member.key);
    if (!field) return unfit(type, member.key);
    CUBE_TRY(write_field(out, type, *field, member.value));
  }
  return wire;
}

}  // namespace

Result<std::string> from_json(const Message& type, std::string_view json) {
  simdjson::dom::parser parser;
  if (parser.allocate(json.size() + 1, depth_limit) != simdjson::SUCCESS)
    return make_error(ErrorCode::resource_exhausted, "no memory to translate the message");
  Element root;
  if (const auto error = parser.parse(json.data(), json.size()).get(root); error != simdjson::SUCCESS)
    return make_error(ErrorCode::internal, std::string("not JSON: ") + simdjson::error_message(error));
  return encode_message(type, root);
}

}  // namespace cube::agent::protobuf
