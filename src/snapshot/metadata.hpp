// snapshot.json: what a snapshot's other files must be.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <cube/snapshot.hpp>
#include <string>
#include <string_view>

namespace cube::snapshot {

inline constexpr std::uint64_t format_version = 2;
inline constexpr std::size_t most_metadata_bytes = 4096;
inline constexpr std::uint64_t most_state_bytes = 64u << 20;
inline constexpr std::uint64_t most_layers = 64;  ///< merged long before

struct Metadata {
  Shape shape;
  std::uint64_t state_bytes = 0;  ///< 0: the disk alone; everything about memory is 0 then
  std::uint32_t state_crc32c = 0;
  std::uint32_t memory_crc32c = 0;  ///< of the base image, see memory_image.hpp
  std::uint64_t memory_layers = 0;
  std::uint64_t disk_layers = 0;
};

/// `invalid_argument` if no machine has this shape.
Result<void> check_shape(const Shape& shape);

/// `invalid_argument` for what parse_metadata would refuse.
Result<void> check_metadata(const Metadata& metadata);

std::string to_json(const Metadata& metadata);

/// `conflict` for another format version; `corrupt` for anything that to_json does not write, byte for byte,
/// and for values no machine can have.
Result<Metadata> parse_metadata(std::string_view text);

}  // namespace cube::snapshot
