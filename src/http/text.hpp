// The character classes of RFC 9110 and comparison without regard to case (ASCII only, whatever the locale).
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <cube/http.hpp>
#include <optional>
#include <string_view>

namespace cube::http {

/// A class of characters, looked up: every character of every head is asked about.
class CharacterClass {
 public:
  template <class Member>
  explicit constexpr CharacterClass(Member is_member) {
    for (std::size_t i = 0; i < members_.size(); ++i) members_[i] = is_member(static_cast<char>(i));
  }
  constexpr bool has(char c) const { return members_[static_cast<unsigned char>(c)]; }
  /// How many characters of it `text` begins with.
  constexpr std::size_t length_of_first(std::string_view text) const {
    std::size_t length = 0;
    while (length < text.size() && has(text[length])) ++length;
    return length;
  }
  constexpr bool has_all(std::string_view text) const { return length_of_first(text) == text.size(); }

 private:
  std::array<bool, 256> members_{};
};

/// tchar: what methods and header names are made of.
inline constexpr CharacterClass token_characters([](char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
});

inline constexpr CharacterClass field_value_characters([](char c) {
  const auto byte = static_cast<unsigned char>(c);
  return c == '\t' || (byte >= 0x20 && byte != 0x7f);
});

constexpr bool is_token(std::string_view text) { return !text.empty() && token_characters.has_all(text); }

/// Visible characters, blanks and bytes above ASCII; never CR, LF, NUL or another control character. Eight
/// bytes at a time, unless one of them is below 0x20, or 0x7f: then each is looked up.
inline bool is_field_value(std::string_view text) {
  constexpr std::uint64_t ones = 0x0101010101010101, high_bits = ones * 0x80;
  if (text.size() < sizeof ones) return field_value_characters.has_all(text);
  const auto is_plain = [&](std::size_t at) {
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, text.data() + at, sizeof bytes);
    const std::uint64_t as_delete = bytes ^ (ones * 0x7f);  // 0 where it is one
    const std::uint64_t suspect = ((bytes - ones * 0x20) & ~bytes) | ((as_delete - ones) & ~as_delete);
    return (suspect & high_bits) == 0;
  };
  const std::size_t last = text.size() - sizeof ones;
  for (std::size_t at = 0; at < last; at += sizeof ones)
    if (!is_plain(at)) return field_value_characters.has_all(text);
  return is_plain(last) || field_value_characters.has_all(text);
}

constexpr std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// Digits only, without sign; nothing if it does not fit or is not a number.
constexpr std::optional<std::uint64_t> parse_decimal(std::string_view text) {
  if (text.empty() || text.size() > 18) return std::nullopt;
  std::uint64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return number;
}

}  // namespace cube::http
