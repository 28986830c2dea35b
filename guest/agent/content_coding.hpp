// The Accept-Encoding header (RFC 9110 section 12.5.3): whether a download is compressed.
#pragma once

#include <optional>
#include <string_view>

namespace cube::agent {

enum class ContentCoding { identity, gzip };

/// gzip for clients that prefer it: that refuse identity, weigh it lower, or name no coding but gzip. A list
/// of several is what HTTP libraries send by themselves, and not worth the sandbox's processor. Nothing if
/// neither is acceptable.
std::optional<ContentCoding> choose_coding(std::string_view accept_encoding);

}  // namespace cube::agent
