#include <charconv>
#include <ctime>

#include "services.hpp"

namespace cube::agent {

namespace {

/// "v1_" and the unpadded base64 of SHA-256 of "path:operation:user:token[:expiration]".
std::string signature_of(std::string text) {
  const auto digest = sha256(text);
  std::string encoded =
      base64_encode(std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
  while (encoded.ends_with('=')) encoded.pop_back();
  return "v1_" + encoded;
}

/// Takes the same time wherever they differ.
bool equal(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

Error refused(std::string message) { return make_error(ErrorCode::unauthenticated, std::move(message)); }

}  // namespace

Result<void> check_files_signature(const http::RequestHead& head, const Settings& settings) {
  if (settings.access_token.empty()) return {};
  const std::string_view query = head.query();
  const auto signature = http::query_parameter(query, "signature");
  if (!signature) return refused("missing signature query parameter");

  const std::string operation = head.method == "POST" ? "write" : "read";
  std::string text = http::query_parameter(query, "path").value_or("") + ':' + operation + ':' +
                     http::query_parameter(query, "username").value_or("") + ':' + settings.access_token;
  std::int64_t expiration = 0;
  const auto expires = http::query_parameter(query, "signature_expiration");
  if (expires) {
    const char* end = expires->data() + expires->size();
    const auto parsed = std::from_chars(expires->data(), end, expiration);
    if (parsed.ec != std::errc() || parsed.ptr != end || expires->empty())
      return refused("signature_expiration must be in Unix seconds");
    text += ':' + std::to_string(expiration);
  }
  if (!equal(*signature, signature_of(std::move(text)))) return refused("invalid signature");
  if (expires && expiration < ::time(nullptr)) return refused("signature is already expired");
  return {};
}

}  // namespace cube::agent
