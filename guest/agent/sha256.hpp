// SHA-256 (FIPS 180-4), for the signatures of /files URLs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cube::agent {

std::array<std::uint8_t, 32> sha256(std::string_view message);

}  // namespace cube::agent
