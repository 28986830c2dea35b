#include "api/authentication.hpp"

namespace cube::api {
namespace {

std::optional<std::string_view> bearer_token(const http::Headers& headers) {
  const auto value = headers.get("Authorization");
  constexpr std::string_view scheme = "Bearer ";
  if (!value || !value->starts_with(scheme)) return std::nullopt;
  return value->substr(scheme.size());
}

}  // namespace

std::optional<Answer> check_access(const Settings& settings, Access access, const http::Headers& headers) {
  if (access == Access::open || settings.api_key.empty()) return std::nullopt;
  const auto key = headers.get("X-API-Key");
  if (key && same_secret(*key, settings.api_key)) return std::nullopt;
  if (access == Access::key_or_bearer) {
    const auto token = bearer_token(headers);
    if (token && same_secret(*token, settings.api_key)) return std::nullopt;
  }
  if (key) return problem(401, "Unauthorized: the X-API-Key header does not hold this server's API key");
  return problem(401, "Unauthorized: the X-API-Key header is missing; set it to this server's API key");
}

}  // namespace cube::api
