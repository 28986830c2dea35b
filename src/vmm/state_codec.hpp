// Reads and writes machine and device states: fixed-size records one after another, every read
// bounds-checked. Little-endian, as the only host architecture is. A state file may be damaged or hostile.
#pragma once

#include <cstdint>
#include <cstring>
#include <cube/core.hpp>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace cube::vmm {

class StateWriter {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T> StateWriter& put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  /// With its length in front.
  StateWriter& put_bytes(std::string_view bytes) {
    put(static_cast<std::uint32_t>(bytes.size()));
    bytes_.append(bytes);
    return *this;
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class StateReader {
 public:
  explicit StateReader(std::string_view bytes) : rest_(bytes) {}

  template <class T>
  requires std::is_trivially_copyable_v<T> Result<T> get() {
    if (rest_.size() < sizeof(T)) return truncated();
    T value;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  template <class T>
  Result<void> get(T& value) {
    auto read = get<T>();
    if (!read) return std::move(read).error();
    value = *read;
    return {};
  }
  Result<std::string_view> get_bytes() {
    const auto length = get<std::uint32_t>();
    if (!length) return length.error();
    if (rest_.size() < *length) return truncated();
    const std::string_view bytes = rest_.substr(0, *length);
    rest_.remove_prefix(*length);
    return bytes;
  }
  bool at_end() const { return rest_.empty(); }

 private:
  static Error truncated() { return make_error(ErrorCode::corrupt, "the machine state ends early"); }
  std::string_view rest_;
};

}  // namespace cube::vmm
