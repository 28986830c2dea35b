#include "api/json_reader.hpp"

namespace cube::api {
namespace {

using simdjson::dom::element_type;

std::string_view type_name(element_type type) {
  switch (type) {
    case element_type::ARRAY: return "an array";
    case element_type::OBJECT: return "an object";
    case element_type::STRING: return "a string";
    case element_type::BOOL: return "true or false";
    case element_type::INT64:
    case element_type::UINT64:
    case element_type::DOUBLE: return "a number";
    case element_type::NULL_VALUE: return "null";
  }
  return "something else";
}

bool has_nul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

// Where true is what everybody gets anyway.
bool is_true_by_default(std::string_view path) {
  return path == "network.allowPublicTraffic" || path == "autoPauseMemory";
}

// The path of the first member that asks for something.
std::optional<std::string> asking_member(JsonValue value, std::string path) {
  switch (value.type()) {
    case element_type::NULL_VALUE: return std::nullopt;
    case element_type::BOOL:
      if (bool(value) == is_true_by_default(path)) return std::nullopt;
      return path;
    case element_type::STRING:
      if (std::string_view(value).empty()) return std::nullopt;
      return path;
    case element_type::ARRAY:
      if (simdjson::dom::array(value).size() == 0) return std::nullopt;
      return path;
    case element_type::OBJECT:
      for (const auto& [key, member] : simdjson::dom::object(value))
        if (auto found = asking_member(member, path + "." + std::string(key))) return found;
      return std::nullopt;
    default: return path;
  }
}

}  // namespace

Error field_error(std::string_view field, std::string_view what) {
  std::string message = "validation error: field '";
  message.append(field.substr(0, 100)).append("' ").append(what);
  return make_error(ErrorCode::invalid_argument, std::move(message));
}

Result<simdjson::dom::object> parse_object(simdjson::dom::parser& parser, std::string_view text) {
  if (text.empty())
    return make_error(ErrorCode::invalid_argument, "validation error: the request needs a JSON body");
  JsonValue root;
  if (const auto error = parser.parse(text.data(), text.size()).get(root))
    return make_error(
        ErrorCode::invalid_argument,
        std::string("validation error: the body is not valid JSON: ") + simdjson::error_message(error));
  simdjson::dom::object object;
  if (root.get(object))
    return make_error(ErrorCode::invalid_argument, "validation error: the body must be a JSON object");
  return object;
}

Result<void> read_field(JsonValue value, std::string_view field, std::string& out) {
  if (value.is_null()) return {};
  std::string_view text;
  if (value.get(text)) return field_error(field, "must be a string");
  if (has_nul(text)) return field_error(field, "must not contain NUL characters");
  out = text;
  return {};
}

Result<void> read_field(JsonValue value, std::string_view field, std::optional<std::int64_t>& out) {
  if (value.is_null()) return {};
  std::int64_t number = 0;
  if (value.get(number)) return field_error(field, "must be an integer");
  out = number;
  return {};
}

Result<void> read_field(JsonValue value, std::string_view field, std::optional<bool>& out) {
  if (value.is_null()) return {};
  bool boolean = false;
  if (value.get(boolean)) return field_error(field, "must be true or false");
  out = boolean;
  return {};
}

Result<void> read_field(JsonValue value, std::string_view field, StringMap& out, StringMapLimits limits) {
  if (value.is_null()) return {};
  simdjson::dom::object object;
  if (value.get(object)) return field_error(field, "must be an object of strings");
  std::size_t bytes = 0;
  for (const auto& [key, member] : object) {
    std::string name(field);
    name.append(".").append(key);
    if (key.empty()) return field_error(field, "must not have an empty name in it");
    if (has_nul(key)) return field_error(field, "must not contain NUL characters");
    std::string_view text;
    if (member.get(text)) return field_error(name, "must be a string");
    if (has_nul(text)) return field_error(name, "must not contain NUL characters");
    bytes += key.size() + text.size();
    if (bytes > limits.bytes)
      return field_error(field, "must not exceed " + std::to_string(limits.bytes >> 10) + " KiB altogether");
    out.insert_or_assign(std::string(key), std::string(text));
    if (out.size() > limits.entries)
      return field_error(field, "must not have more than " + std::to_string(limits.entries) + " entries");
  }
  return {};
}

Result<void> accept_only_default(JsonValue value, std::string_view field, element_type type) {
  if (value.is_null()) return {};
  if (value.type() != type) return field_error(field, "must be " + std::string(type_name(type)));
  const auto asking = asking_member(value, std::string(field));
  if (!asking) return {};
  return make_error(ErrorCode::unimplemented,
                    "'" + asking->substr(0, 200) + "' is not supported by this server yet; leave it out");
}

Result<void> refuse_unknown(JsonValue value, std::string_view field) {
  if (!asking_member(value, std::string(field))) return {};
  return field_error(field, "is unknown to this server; leave it out");
}

}  // namespace cube::api
