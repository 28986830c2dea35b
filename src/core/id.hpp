// Identifiers. A sandbox id is 'i' + 20 characters of [a-z0-9] (E2B's shape), of which the first four name
// the node that owns it, so any daemon can route a request from the id alone.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace cube {

inline constexpr std::size_t node_tag_length = 4;

/// Cryptographically random text over [a-z0-9], from getrandom(2).
std::string random_lowercase(std::size_t length);

/// Whether it has nothing but characters of random_lowercase.
bool is_lowercase(std::string_view text);

/// Cryptographically random lower-case hex of `bytes` bytes; tokens and API keys.
std::string random_hex(std::size_t bytes);

/// For a virtual machine's generation ID.
std::array<std::uint8_t, 16> random_generation_id();

/// `node_tag` is `node_tag_length` characters of [a-z0-9].
std::string make_sandbox_id(std::string_view node_tag);

/// A template or build id: 20 characters of [a-z0-9].
std::string make_template_id();

bool is_sandbox_id(std::string_view text);

/// The node tag inside a valid sandbox id; empty for anything else.
std::string_view node_tag_of(std::string_view sandbox_id);

/// Template names: `[a-z0-9-_]+`, at most 128 characters; so never a path.
bool is_template_name(std::string_view text);

}  // namespace cube
