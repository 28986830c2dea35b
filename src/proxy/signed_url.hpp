// Signed URLs that name no sandbox: with E2B_SANDBOX_URL set, SDKs make "/files?path=…&signature=v1_…" and
// nothing in it says whose file that is. The sandbox whose access token gives that signature is the one.
#pragma once

#include <array>
#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <cube/http.hpp>
#include <cube/node.hpp>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <variant>

#include "proxy/target.hpp"

namespace cube::proxy {

/// What was signed, but for the token between its two parts, and the signature.
struct SignedUrl {
  std::string before;  ///< "{path}:{read|write}:{user}:"
  std::string after;   ///< ":{expiration}" or nothing
  std::string signature;
  std::array<std::uint8_t, 32> digest{};
};

/// Nothing: the request is something else (not /files, or without a signature).
std::variant<std::monostate, SignedUrl, BadTarget> parse_signed_url(const http::RequestHead& request);

bool is_signed_with(const SignedUrl& url, std::string_view access_token);

/// Finds out whose a signed URL is by computing its signature with every sandbox's token.
///
/// Anybody may ask, so what that costs is bounded: a second's worth of lookups computes `hashes_per_second`
/// signatures (about 1 µs each), in slices that let everything else have its turn. A signature that was found
/// is remembered and costs one. How long a lookup takes tells how many sandboxes there are, and nothing of a
/// token: whoever does not know one cannot choose what its hash begins with.
class SignedUrls {
 public:
  static constexpr std::size_t most_remembered = 4096;
  static constexpr std::size_t slice = 1000;

  SignedUrls(asio::any_io_executor loop, const node::Sandboxes& sandboxes, std::size_t hashes_per_second)
      : loop_(std::move(loop)), sandboxes_(sandboxes), rate_(hashes_per_second), budget_(hashes_per_second) {}

  /// The sandbox's id. `not_found`; `resource_exhausted` when too much was computed lately. The object is
  /// kept alive by the call.
  static asio::awaitable<Result<std::string>> find(std::shared_ptr<SignedUrls> self, SignedUrl url);

  std::size_t remembered() const { return known_.size(); }
  std::uint64_t computed() const { return computed_; }  ///< signatures so far

 private:
  struct Tokens;
  const std::string* recall(const SignedUrl& url);
  void remember(const SignedUrl& url, const std::string& sandbox_id);
  void refill();

  asio::any_io_executor loop_;
  const node::Sandboxes& sandboxes_;
  std::size_t rate_;
  double budget_;
  std::uint64_t computed_ = 0;
  std::chrono::steady_clock::time_point refilled_ = std::chrono::steady_clock::now();
  std::unordered_map<std::string, std::string> known_;  ///< signature to sandbox id
  std::deque<std::string> order_;                       ///< of known_, the oldest first
};

}  // namespace cube::proxy
