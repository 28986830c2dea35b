// CRC-32C (Castagnoli, RFC 3720 appendix B.4): the checksum of everything stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cube {

/// `previous` continues the checksum of the bytes before.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);

/// The same for `length` bytes of zeros, in O(log length); what sparse files are made of.
std::uint32_t crc32c_of_zeros(std::uint64_t length, std::uint32_t previous = 0);

}  // namespace cube
