#include "json.hpp"

#include <cstdio>

namespace cube::cubectl {

Result<JsonDocument> JsonDocument::parse(std::string_view text) {
  JsonDocument document;
  if (document.parser_->parse(text.data(), text.size()).get(document.root_) != simdjson::SUCCESS)
    return make_error(ErrorCode::unavailable,
                      "the answer is not JSON; is a cubed daemon listening at that URL?");
  return document;
}

std::string json_string(JsonValue value, std::string_view name) {
  std::string_view text;
  return value[name].get(text) == simdjson::SUCCESS ? std::string(text) : std::string();
}

std::int64_t json_integer(JsonValue value, std::string_view name) {
  std::int64_t number = 0;
  return value[name].get(number) == simdjson::SUCCESS ? number : 0;
}

double json_number(JsonValue value, std::string_view name) {
  double number = 0;
  return value[name].get(number) == simdjson::SUCCESS ? number : 0;
}

bool json_boolean(JsonValue value, std::string_view name) {
  bool truth = false;
  return value[name].get(truth) == simdjson::SUCCESS && truth;
}

std::vector<JsonValue> json_array(JsonValue value) {
  std::vector<JsonValue> items;
  simdjson::dom::array array;
  if (value.get(array) == simdjson::SUCCESS)
    for (const JsonValue item : array) items.push_back(item);
  return items;
}

std::vector<JsonValue> json_array(JsonValue value, std::string_view name) {
  JsonValue member;
  return value[name].get(member) == simdjson::SUCCESS ? json_array(member) : std::vector<JsonValue>();
}

std::string json_pairs(JsonValue value, std::string_view name) {
  std::string pairs;
  simdjson::dom::object object;
  if (value[name].get(object) != simdjson::SUCCESS) return pairs;
  for (const auto& [key, member] : object) {
    std::string_view text;
    if (member.get(text) != simdjson::SUCCESS) continue;
    if (!pairs.empty()) pairs += ", ";
    pairs.append(key).append("=").append(text);
  }
  return pairs;
}

void print_json(JsonValue value) { print_json(simdjson::minify(value)); }

void print_json(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

}  // namespace cube::cubectl
