#include "core/crc32c.hpp"

#include <array>
#include <cstring>

#ifdef __x86_64__
#include <nmmintrin.h>
#endif

namespace cube {
namespace {

constexpr std::uint32_t polynomial = 0x82f63b78;  // reflected

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
    table[i] = crc;
  }
  return table;
}

std::uint32_t update_by_table(std::uint32_t crc, std::span<const std::byte> bytes) {
  static constexpr auto table = make_table();
  for (const std::byte byte : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<std::uint32_t>(byte)) & 0xff];
  return crc;
}

#ifdef __x86_64__
[[gnu::target("sse4.2")]] std::uint32_t update_by_instruction(std::uint32_t crc,
                                                              std::span<const std::byte> bytes) {
  std::uint64_t wide = crc;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  return update_by_table(static_cast<std::uint32_t>(wide), bytes);
}
#endif

// The product of two polynomials modulo the CRC's. Reflected: the highest bit is the coefficient of x^0.
std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if ((a >> 31) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? polynomial : 0);
  }
  return product;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("sse4.2")) return ~update_by_instruction(~previous, bytes);
#endif
  return ~update_by_table(~previous, bytes);
}

// A byte of zeros multiplies the register by x^8; so `length` of them multiply it by x^8 to the power of
// length.
std::uint32_t crc32c_of_zeros(std::uint64_t length, std::uint32_t previous) {
  std::uint32_t crc = ~previous;
  for (std::uint32_t power = 1u << (31 - 8); length != 0; length >>= 1) {
    if ((length & 1) != 0) crc = multiply(crc, power);
    power = multiply(power, power);
  }
  return ~crc;
}

}  // namespace cube
