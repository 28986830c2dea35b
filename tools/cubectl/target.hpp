// Which daemon, and with which key: from options, the environment, and what a daemon on this machine leaves.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <string>
#include <string_view>

namespace cube::cubectl {

/// A daemon's URL taken apart.
struct Address {
  std::string host;  ///< without the brackets of IPv6
  std::uint16_t port = 80;
  std::string authority;  ///< as in the URL, for Host
};

struct Target {
  std::string url;
  Address address;
  std::string api_key;
  std::string why_no_key;  ///< where a key was looked for, if there is none
};

/// What the command line says; empty is unsaid.
struct TargetOptions {
  std::string url, api_key, api_key_file;
};

/// `invalid_argument` naming the URL, or an error naming the key file that was asked for.
Result<Target> find_target(const TargetOptions& options);

/// "http://127.0.0.1:3000"; nothing may follow the port but one '/'.
Result<Address> parse_url(std::string_view url);

/// Percent-encodes everything but the characters that stand for themselves anywhere in a URL.
std::string url_encode(std::string_view text);

}  // namespace cube::cubectl
