// JsonWriter: builds one JSON text in a string. Reading JSON is simdjson's business.
//
//   JsonWriter json;
//   json.begin_object().key("sandboxID").value(id).key("cpuCount").value(2).end_object();
//   send(json.text());
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace cube {

class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(bool boolean) { return raw(boolean ? "true" : "false"); }
  template <std::integral Number>
    requires(!std::same_as<Number, bool>)
  JsonWriter& value(Number number) {
    return raw(std::to_string(number));
  }
  JsonWriter& value(double number);  ///< not-a-number and infinities become null: JSON has no word for them
  JsonWriter& null() { return raw("null"); }

  /// Appends text that is JSON already.
  JsonWriter& raw(std::string_view json);

  const std::string& text() const { return text_; }
  std::string take() { return std::move(text_); }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();

  std::string text_;
  bool needs_comma_ = false;
};

/// Appends `text` to `out` as a quoted JSON string. Bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);

}  // namespace cube
