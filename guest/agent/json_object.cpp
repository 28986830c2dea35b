#include <charconv>

#include "rpc.hpp"

namespace cube::agent {

namespace {

// No message of the services nests deeper than five.
constexpr std::size_t depth_limit = 64;

Error wrong_type(std::string_view name, std::string_view wanted) {
  return make_error(ErrorCode::invalid_argument,
                    "field '" + std::string(name) + "' must be " + std::string(wanted));
}

/// "includeEntry" to "include_entry": proto3 JSON parsers accept both spellings.
std::string proto_name(std::string_view name) {
  std::string result;
  for (const char c : name) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper) result += '_';
    result += upper ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

/// The member, or nothing if it is absent or null, which proto3 JSON reads as the default.
std::optional<simdjson::dom::element> find(const simdjson::dom::object& object, std::string_view name) {
  simdjson::dom::element member;
  if (object.at_key(name).get(member) != simdjson::SUCCESS &&
      object.at_key(proto_name(name)).get(member) != simdjson::SUCCESS)
    return std::nullopt;
  if (member.is_null()) return std::nullopt;
  return member;
}

std::optional<std::int64_t> integer_of(simdjson::dom::element element) {
  std::int64_t number = 0;
  if (element.get(number) == simdjson::SUCCESS) return number;
  double real = 0;
  if (element.is_double() && element.get(real) == simdjson::SUCCESS) {
    constexpr double exact = 9007199254740992.0;  // 2^53
    if (real < -exact || real > exact) return std::nullopt;
    number = static_cast<std::int64_t>(real);
    return static_cast<double>(number) == real ? std::optional(number) : std::nullopt;
  }
  std::string_view text;
  if (element.get(text) != simdjson::SUCCESS || text.empty()) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

Result<JsonObject> JsonObject::parse(std::string text) {
  JsonObject result;
  result.parser_ = std::make_shared<simdjson::dom::parser>();
  if (result.parser_->allocate(text.size() + 1, depth_limit) != simdjson::SUCCESS)
    return make_error(ErrorCode::resource_exhausted, "no memory to parse the message");
  simdjson::dom::element root;
  if (const auto error = result.parser_->parse(text).get(root); error != simdjson::SUCCESS)
    return make_error(ErrorCode::invalid_argument,
                      std::string("malformed JSON: ") + simdjson::error_message(error));
  if (root.get(result.object_) != simdjson::SUCCESS)
    return make_error(ErrorCode::invalid_argument, "the message must be a JSON object");
  return result;
}

// An object without a parser is one that was absent: it has no members.

bool JsonObject::has(std::string_view name) const { return parser_ && find(object_, name); }

Result<std::string> JsonObject::string(std::string_view name) const {
  if (!has(name)) return std::string();
  std::string_view text;
  if (find(object_, name)->get(text) != simdjson::SUCCESS) return wrong_type(name, "a string");
  return std::string(text);
}

Result<bool> JsonObject::boolean(std::string_view name, bool otherwise) const {
  if (!has(name)) return otherwise;
  bool value = false;
  if (find(object_, name)->get(value) != simdjson::SUCCESS) return wrong_type(name, "true or false");
  return value;
}

Result<std::int64_t> JsonObject::integer(std::string_view name, std::int64_t otherwise) const {
  if (!has(name)) return otherwise;
  const auto number = integer_of(*find(object_, name));
  if (!number) return wrong_type(name, "an integer");
  return *number;
}

Result<JsonObject> JsonObject::object(std::string_view name) const {
  JsonObject result;
  if (!has(name)) return result;
  if (find(object_, name)->get(result.object_) != simdjson::SUCCESS) return wrong_type(name, "an object");
  result.parser_ = parser_;
  return result;
}

Result<std::size_t> JsonObject::object_count(std::string_view name) const {
  if (!has(name)) return std::size_t{0};
  simdjson::dom::array array;
  if (find(object_, name)->get(array) != simdjson::SUCCESS) return wrong_type(name, "an array of objects");
  std::size_t count = 0;
  for (const simdjson::dom::element element : array) {
    if (!element.is_object()) return wrong_type(name, "an array of objects");
    ++count;
  }
  return count;
}

Result<std::vector<std::string>> JsonObject::strings(std::string_view name) const {
  std::vector<std::string> result;
  if (!has(name)) return result;
  simdjson::dom::array array;
  if (find(object_, name)->get(array) != simdjson::SUCCESS) return wrong_type(name, "an array of strings");
  for (const simdjson::dom::element element : array) {
    std::string_view text;
    if (element.get(text) != simdjson::SUCCESS) return wrong_type(name, "an array of strings");
    result.emplace_back(text);
  }
  return result;
}

Result<std::map<std::string, std::string>> JsonObject::string_map(std::string_view name) const {
  std::map<std::string, std::string> result;
  if (!has(name)) return result;
  simdjson::dom::object object;
  if (find(object_, name)->get(object) != simdjson::SUCCESS) return wrong_type(name, "a map of strings");
  for (const simdjson::dom::key_value_pair member : object) {
    std::string_view text;
    if (member.value.get(text) != simdjson::SUCCESS) return wrong_type(name, "a map of strings");
    result.insert_or_assign(std::string(member.key), std::string(text));
  }
  return result;
}

Result<std::string> JsonObject::bytes(std::string_view name) const {
  auto text = string(name);
  if (!text.ok()) return wrong_type(name, "base64 text");
  auto bytes = base64_decode(*text);
  if (!bytes) return wrong_type(name, "base64 text");
  return std::move(*bytes);
}

}  // namespace cube::agent
