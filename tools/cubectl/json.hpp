// Answers of the daemon, read leniently: what is absent or of another type reads as empty.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <cube/core.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cube::cubectl {

using JsonValue = simdjson::dom::element;

/// One JSON text, parsed. Values taken from it live as long as it does.
class JsonDocument {
 public:
  /// `unavailable` if it is not JSON.
  static Result<JsonDocument> parse(std::string_view text);

  JsonValue root() const { return root_; }

 private:
  JsonDocument() : parser_(std::make_unique<simdjson::dom::parser>()) {}
  std::unique_ptr<simdjson::dom::parser> parser_;
  JsonValue root_;
};

std::string json_string(JsonValue value, std::string_view name);
std::int64_t json_integer(JsonValue value, std::string_view name);
double json_number(JsonValue value, std::string_view name);
bool json_boolean(JsonValue value, std::string_view name);
std::vector<JsonValue> json_array(JsonValue value);
std::vector<JsonValue> json_array(JsonValue value, std::string_view name);

/// "a=1, b=2" of an object of strings.
std::string json_pairs(JsonValue value, std::string_view name);

/// One line of JSON to standard output.
void print_json(JsonValue value);
void print_json(std::string_view text);

}  // namespace cube::cubectl
