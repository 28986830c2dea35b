// The Range header (RFC 9110 section 14.2): one range of bytes. Several, or what is malformed, mean the
// whole.
#pragma once

#include <cstdint>
#include <string_view>

namespace cube::agent {

struct RangeChoice {
  enum class Kind { whole, part, unsatisfiable };
  Kind kind = Kind::whole;
  std::uint64_t first = 0;
  std::uint64_t length = 0;
};

RangeChoice choose_range(std::string_view range, std::uint64_t size);

}  // namespace cube::agent
