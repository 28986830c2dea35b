#include "core/id.hpp"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

namespace cube {
namespace {

constexpr std::string_view alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::size_t random_id_length = 20;

bool in_alphabet(char c) { return alphabet.find(c) != std::string_view::npos; }

void fill_random(unsigned char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t count = ::getrandom(data, size, 0);
    if (count < 0) {
      if (errno == EINTR) continue;
      std::abort();  // no kernel this runs on lacks getrandom; guessing an id would be worse
    }
    data += count;
    size -= static_cast<std::size_t>(count);
  }
}

}  // namespace

std::string random_lowercase(std::size_t length) {
  // Rejection sampling: bytes past the largest multiple of 36 would favour the first letters.
  constexpr unsigned limit = 256 / alphabet.size() * alphabet.size();
  std::string text;
  while (text.size() < length) {
    std::array<unsigned char, 32> bytes;
    fill_random(bytes.data(), bytes.size());
    for (unsigned char byte : bytes)
      if (byte < limit && text.size() < length) text += alphabet[byte % alphabet.size()];
  }
  return text;
}

bool is_lowercase(std::string_view text) { return std::ranges::all_of(text, in_alphabet); }

std::string random_hex(std::size_t bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string raw(bytes, '\0');
  fill_random(reinterpret_cast<unsigned char*>(raw.data()), raw.size());
  std::string text;
  for (unsigned char byte : raw) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::array<std::uint8_t, 16> random_generation_id() {
  std::array<std::uint8_t, 16> id;
  fill_random(id.data(), id.size());
  return id;
}

std::string make_sandbox_id(std::string_view node_tag) {
  return "i" + std::string(node_tag) + random_lowercase(random_id_length - node_tag_length);
}

std::string make_template_id() { return random_lowercase(random_id_length); }

bool is_sandbox_id(std::string_view text) {
  return text.size() == random_id_length + 1 && text.front() == 'i' && is_lowercase(text);
}

std::string_view node_tag_of(std::string_view sandbox_id) {
  return is_sandbox_id(sandbox_id) ? sandbox_id.substr(1, node_tag_length) : std::string_view{};
}

bool is_template_name(std::string_view text) {
  return !text.empty() && text.size() <= 128 &&
         std::ranges::all_of(text, [](char c) { return in_alphabet(c) || c == '-' || c == '_'; });
}

}  // namespace cube
