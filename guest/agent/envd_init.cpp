#include "envd_init.hpp"

#include <cube/core.hpp>
#include <utility>

#include "envd.hpp"

namespace cube::agent {
namespace {

bool is_later(const timespec& one, const timespec& other) {
  return std::pair(one.tv_sec, one.tv_nsec) > std::pair(other.tv_sec, other.tv_nsec);
}

Result<void> refuse_unsupported(const JsonObject& message) {
  for (const char* name : {"hyperloopIP", "caBundle"}) {
    const auto text = message.string(name);
    if (!text.ok()) return text.error();
    if (!text->empty()) return make_error(ErrorCode::unimplemented, std::string(name) + " is not supported");
  }
  const auto mounts = message.object_count("volumeMounts");
  if (!mounts.ok()) return mounts.error();
  if (*mounts > 0) return make_error(ErrorCode::unimplemented, "volumeMounts are not supported");
  return {};
}

}  // namespace

Result<void> EnvdInit::apply(const JsonObject& message, Settings& settings) {
  const auto token = message.string("accessToken");
  if (!token.ok()) return token.error();
  if (!settings.access_token.empty() && !tokens_equal(*token, settings.access_token))
    return make_error(ErrorCode::unauthenticated, "the access token is not the one of this sandbox");
  CUBE_TRY(refuse_unsupported(message));
  const auto text = message.string("timestamp");
  if (!text.ok()) return text.error();
  const auto timestamp = parse_rfc3339(*text);
  if (!text->empty() && !timestamp)
    return make_error(ErrorCode::invalid_argument, "timestamp must be in the format of RFC 3339");
  auto variables = message.string_map("envVars");
  if (!variables.ok()) return std::move(variables).error();
  const auto user = message.string("defaultUser");
  if (!user.ok()) return user.error();
  if (!user->empty())
    if (const auto known = find_user(*user); !known.ok())
      return make_error(ErrorCode::invalid_argument, known.error().message);
  const auto directory = message.string("defaultWorkdir");
  if (!directory.ok()) return directory.error();

  if (timestamp && latest_ && !is_later(*timestamp, *latest_)) return {};
  if (timestamp) latest_ = timestamp;
  settings.access_token = *token;
  if (message.has("envVars")) settings.env_vars = std::move(*variables);
  if (!user->empty()) settings.default_user = *user;
  if (!directory->empty()) settings.default_workdir = *directory;
  return {};
}

}  // namespace cube::agent
