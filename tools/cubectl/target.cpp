#include "target.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace cube::cubectl {
namespace {

constexpr const char* default_url = "http://127.0.0.1:3000";
constexpr const char* default_key_file = "/var/lib/cubed/api-key";
constexpr std::size_t key_limit = 4096;

/// Empty if it is not set.
std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Result<std::string> read_key(const std::string& path) {
  auto text = read_file(path, key_limit);
  if (!text) return std::move(text).error();
  std::string key = text->substr(0, text->find_first_of("\r\n"));
  if (key.empty()) return make_error(ErrorCode::invalid_argument, "the key file is empty", path);
  return key;
}

std::string first_of(std::initializer_list<std::string> candidates) {
  for (const std::string& candidate : candidates)
    if (!candidate.empty()) return candidate;
  return {};
}

Result<void> find_key(const TargetOptions& options, Target& target) {
  target.api_key = options.api_key;
  if (!target.api_key.empty()) return {};
  std::string file = options.api_key_file;
  if (file.empty()) {
    target.api_key = first_of({environment("E2B_API_KEY"), environment("CUBED_API_KEY")});
    file = environment("CUBED_API_KEY_FILE");
  }
  if (!target.api_key.empty()) return {};
  if (!file.empty()) {
    auto key = read_key(file);
    if (!key) return std::move(key).error();
    target.api_key = std::move(*key);
    return {};
  }
  auto key = read_key(default_key_file);
  if (key)
    target.api_key = std::move(*key);
  else
    target.why_no_key = key.error().describe();
  return {};
}

}  // namespace

Result<Address> parse_url(std::string_view url) {
  const auto bad = [&](const char* what) {
    return make_error(ErrorCode::invalid_argument, what, std::string(url));
  };
  if (url.starts_with("https://")) return bad("https is not supported yet; use the daemon's http:// address");
  constexpr std::string_view scheme = "http://";
  constexpr const char* malformed = "not a URL like http://127.0.0.1:3000";
  if (!url.starts_with(scheme)) return bad(malformed);
  std::string_view authority = url.substr(scheme.size());
  if (authority.ends_with('/')) authority.remove_suffix(1);
  const bool visible =
      std::ranges::all_of(authority, [](char c) { return std::isgraph(static_cast<unsigned char>(c)) != 0; });
  if (!visible || authority.find_first_of("/?#@") != authority.npos) return bad(malformed);

  Address address;
  address.authority = authority;
  std::string_view port;
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    if (end == authority.npos) return bad(malformed);
    address.host = authority.substr(1, end - 1);
    port = authority.substr(end + 1);
  } else {
    const std::size_t colon = std::min(authority.find(':'), authority.size());
    address.host = authority.substr(0, colon);
    port = authority.substr(colon);
  }
  if (address.host.empty()) return bad(malformed);
  if (port.empty()) return address;
  if (port.front() != ':' || port.size() < 2) return bad(malformed);
  unsigned number = 0;
  for (const char c : port.substr(1))
    if (c < '0' || c > '9' || (number = number * 10 + static_cast<unsigned>(c - '0')) > 65535)
      return bad(malformed);
  if (number == 0) return bad(malformed);
  address.port = static_cast<std::uint16_t>(number);
  return address;
}

Result<Target> find_target(const TargetOptions& options) {
  Target target;
  target.url = first_of({options.url, environment("E2B_API_URL"), environment("CUBED_API_URL"), default_url});
  auto address = parse_url(target.url);
  if (!address) return std::move(address).error();
  target.address = std::move(*address);
  CUBE_TRY(find_key(options, target));
  return target;
}

std::string url_encode(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~')
      out += c;
    else
      (out += '%').append({digits[byte >> 4], digits[byte & 15]});
  }
  return out;
}

}  // namespace cube::cubectl
