#include "proxy/signed_url.hpp"

#include <algorithm>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <charconv>
#include <optional>

namespace cube::proxy {
namespace {

constexpr std::string_view scheme = "v1_";
constexpr std::size_t digest_characters = 43;  // 32 bytes in base64, without padding

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

/// "v1_" and the digest; only in the one way it is written.
std::optional<std::array<std::uint8_t, 32>> parse_signature(std::string_view text) {
  if (!text.starts_with(scheme) || text.size() != scheme.size() + digest_characters) return std::nullopt;
  std::array<std::uint8_t, 32> digest{};
  std::uint32_t bits = 0;
  int count = 0;
  std::size_t at = 0;
  for (const char c : text.substr(scheme.size())) {
    const int value = base64_value(c);
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    digest[at++] = static_cast<std::uint8_t>(bits >> count);
    bits &= (1u << count) - 1;
  }
  if (bits != 0) return std::nullopt;
  return digest;
}

/// What the signature has to allow; nothing for a method that /files does not know. A browser asks first
/// whether it may.
std::optional<std::string_view> operation_of(const http::RequestHead& request) {
  std::string_view method = request.method;
  if (method == "OPTIONS") method = request.headers.get("Access-Control-Request-Method").value_or("");
  if (method == "GET" || method == "HEAD") return "read";
  if (method == "POST") return "write";
  return std::nullopt;
}

std::optional<std::int64_t> parse_expiration(std::string_view text) {
  std::int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return seconds;
}

}  // namespace

std::variant<std::monostate, SignedUrl, BadTarget> parse_signed_url(const http::RequestHead& request) {
  if (request.path() != "/files") return {};
  const auto operation = operation_of(request);
  const std::string_view query = request.query();
  if (!operation || query.find("signature") == std::string_view::npos) return {};
  auto signature = http::query_parameter(query, "signature");
  if (!signature) return {};
  const auto digest = parse_signature(*signature);
  if (!digest) return BadTarget{"Invalid signature: expected v1_ and 43 characters of base64"};
  SignedUrl url;
  url.digest = *digest;
  url.signature = std::move(*signature);
  url.before.append(http::query_parameter(query, "path").value_or("")).append(":");
  url.before.append(*operation).append(":");
  url.before.append(http::query_parameter(query, "username").value_or("")).append(":");
  if (const auto expires = http::query_parameter(query, "signature_expiration")) {
    const auto seconds = parse_expiration(*expires);
    if (!seconds) return BadTarget{"Invalid signature_expiration: expected seconds since 1970"};
    url.after = ":" + std::to_string(*seconds);
  }
  return url;
}

bool is_signed_with(const SignedUrl& url, std::string_view access_token) {
  if (access_token.empty()) return false;
  std::string text;
  text.reserve(url.before.size() + access_token.size() + url.after.size());
  text.append(url.before).append(access_token).append(url.after);
  return sha256(text) == url.digest;
}

/// Every token at one moment, in one piece of memory: sandboxes come and go between two slices.
struct SignedUrls::Tokens {
  struct Entry {
    std::size_t id, token, end;  ///< where in `text` each begins
  };
  std::string text;
  std::vector<Entry> entries;

  explicit Tokens(const node::Sandboxes& sandboxes) {
    sandboxes.for_each([this](const node::SandboxInfo& info) {
      const std::size_t at = text.size();
      text.append(info.id).append(info.access_token);
      entries.push_back({at, at + info.id.size(), text.size()});
    });
  }
  std::string_view token(const Entry& entry) const {
    return std::string_view(text).substr(entry.token, entry.end - entry.token);
  }
  std::string id(const Entry& entry) const { return text.substr(entry.id, entry.token - entry.id); }
};

const std::string* SignedUrls::recall(const SignedUrl& url) {
  const auto known = known_.find(url.signature);
  if (known == known_.end()) return nullptr;
  const node::SandboxInfo* info = sandboxes_.peek(known->second);
  // The same signature may have come with another path.
  return info != nullptr && is_signed_with(url, info->access_token) ? &known->second : nullptr;
}

void SignedUrls::remember(const SignedUrl& url, const std::string& sandbox_id) {
  if (!known_.insert_or_assign(url.signature, sandbox_id).second) return;
  order_.push_back(url.signature);
  if (order_.size() <= most_remembered) return;
  known_.erase(order_.front());
  order_.pop_front();
}

void SignedUrls::refill() {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - refilled_).count();
  const auto rate = static_cast<double>(rate_);
  budget_ = std::min(rate, budget_ + seconds * rate);
  refilled_ = now;
}

asio::awaitable<Result<std::string>> SignedUrls::find(std::shared_ptr<SignedUrls> self, SignedUrl url) {
  if (const std::string* known = self->recall(url)) co_return *known;
  self->refill();
  if (self->budget_ <= 0) co_return make_error(ErrorCode::resource_exhausted, "too many lookups");
  const Tokens tokens(self->sandboxes_);
  // All of it is charged before the first turn of somebody else's; what was not needed is given back.
  self->budget_ -= static_cast<double>(tokens.entries.size());
  std::size_t done = 0;
  for (const Tokens::Entry& entry : tokens.entries) {
    ++done;
    ++self->computed_;
    if (is_signed_with(url, tokens.token(entry))) {
      self->budget_ += static_cast<double>(tokens.entries.size() - done);
      std::string id = tokens.id(entry);
      self->remember(url, id);
      co_return id;
    }
    if (done % slice == 0) co_await asio::post(self->loop_, asio::use_awaitable);
  }
  co_return make_error(ErrorCode::not_found, "no sandbox has this signature");
}

}  // namespace cube::proxy
