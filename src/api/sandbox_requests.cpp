#include "api/sandbox_requests.hpp"

#include <algorithm>

#include "api/json_reader.hpp"
#include "api/network_request.hpp"

namespace cube::api {
namespace {

using simdjson::dom::element_type;

constexpr StringMapLimits metadata_limits{.entries = 256, .bytes = 64 << 10};
constexpr StringMapLimits env_vars_limits{.entries = 1024, .bytes = 256 << 10};
constexpr std::int64_t longest_refresh = 3600;
constexpr std::size_t longest_template_ref = 256;
constexpr std::int64_t most_forks = 100;

Result<void> check_timeout(std::int64_t seconds) {
  if (seconds <= node::longest_timeout.count()) return {};
  return make_error(ErrorCode::invalid_argument, "Timeout cannot be greater than 24 hours");
}

Result<void> read_env_vars(JsonValue value, std::string_view field, StringMap& out) {
  CUBE_TRY(read_field(value, field, out, env_vars_limits));
  for (const auto& [name, ignored] : out)
    if (name.find('=') != std::string::npos) return field_error(field, "must not have '=' in a name");
  return {};
}

struct CreateFields {
  node::CreateRequest request;
  std::optional<std::int64_t> timeout;
  std::optional<bool> auto_pause, auto_pause_memory, auto_resume;
};

/// {"enabled": bool}
Result<void> read_auto_resume(JsonValue value, std::string_view field, std::optional<bool>& enabled) {
  if (value.is_null()) return {};
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return field_error(field, "must be an object");
  for (const auto& [name, member] : object) {
    if (name == "enabled")
      CUBE_TRY(read_field(member, "autoResume.enabled", enabled));
    else
      CUBE_TRY(refuse_unknown(member, name));
  }
  return {};
}

/// What E2B's API says about fields that depend on each other.
Result<void> apply_lifecycle(CreateFields& fields) {
  node::CreateRequest& request = fields.request;
  request.auto_pause = fields.auto_pause.value_or(false);
  request.auto_pause_memory = fields.auto_pause_memory.value_or(true);
  request.auto_resume = fields.auto_resume.value_or(false);
  if (!request.auto_pause_memory && !request.auto_pause)
    return field_error("autoPauseMemory", "false needs autoPause");
  if (!request.auto_pause_memory && request.auto_resume)
    return field_error("autoPauseMemory", "false does not go with autoResume");
  return {};
}

Result<void> read_create_field(std::string_view name, JsonValue value, CreateFields& fields) {
  if (name == "templateID") return read_field(value, name, fields.request.template_ref);
  if (name == "timeout") return read_field(value, name, fields.timeout);
  if (name == "metadata") return read_field(value, name, fields.request.metadata, metadata_limits);
  if (name == "envVars") return read_env_vars(value, name, fields.request.env_vars);
  if (name == "secure" || name == "allow_internet_access") {
    // Any value is honoured: every sandbox is secured, and none reaches the Internet yet (README).
    std::optional<bool> honoured;
    return read_field(value, name, honoured);
  }
  if (name == "autoPause") return read_field(value, name, fields.auto_pause);
  if (name == "autoPauseMemory") return read_field(value, name, fields.auto_pause_memory);
  if (name == "autoResume") return read_auto_resume(value, name, fields.auto_resume);
  if (name == "network") return read_network(value, name, fields.request.network);
  if (name == "mcp") {
    // Nothing to do here: SDKs start the gateway themselves, by a command in the sandbox.
    if (value.is_null() || value.type() == element_type::OBJECT) return {};
    return field_error(name, "must be an object");
  }
  if (name == "iam") return accept_only_default(value, name, element_type::OBJECT);
  if (name == "volumeMounts") return accept_only_default(value, name, element_type::ARRAY);
  return refuse_unknown(value, name);
}

/// Calls `field(name, value)` for each member of a body that may be empty.
template <class Field>
Result<void> for_each_member(std::string_view body, Field field) {
  if (body.empty()) return {};
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  for (const auto& [name, value] : *object) CUBE_TRY(field(std::string_view(name), value));
  return {};
}

// A body of one integer; `also` takes the field's siblings.
template <class OtherField>
Result<std::optional<std::int64_t>> parse_integer_body(std::string_view body, std::string_view field,
                                                       OtherField also) {
  std::optional<std::int64_t> number;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    return name == field ? read_field(value, name, number) : also(name, value);
  }));
  return number;
}

/// A timeout that has a default and may not be negative.
Result<std::chrono::seconds> timeout_or(std::optional<std::int64_t> timeout, std::chrono::seconds otherwise) {
  const std::int64_t seconds = timeout.value_or(otherwise.count());
  if (seconds < 0) return field_error("timeout", "must not be negative");
  CUBE_TRY(check_timeout(seconds));
  return std::chrono::seconds(seconds);
}

struct ResumeFields {
  std::optional<std::int64_t> timeout;
  std::optional<bool> memory;
};

Result<void> read_resume_field(std::string_view name, JsonValue value, ResumeFields& fields) {
  if (name == "timeout") return read_field(value, name, fields.timeout);
  if (name == "memory") return read_field(value, name, fields.memory);
  return refuse_unknown(value, name);
}

Result<node::Sandboxes::ResumeOptions> resume_options(const ResumeFields& fields, Generation generation) {
  const auto timeout = timeout_or(fields.timeout, default_timeout(generation));
  if (!timeout.ok()) return timeout.error();
  return node::Sandboxes::ResumeOptions{*timeout, fields.memory.value_or(true)};
}

}  // namespace

std::chrono::seconds default_timeout(Generation generation) {
  return std::chrono::seconds(generation == Generation::v1 ? 15 : 300);
}

Result<node::CreateRequest> parse_create(std::string_view body, Generation generation) {
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  CreateFields fields;
  for (const auto& [name, value] : *object) CUBE_TRY(read_create_field(name, value, fields));

  const std::string& reference = fields.request.template_ref;
  if (reference.empty()) return field_error("templateID", "is required: the id or name of a template");
  if (reference.size() > longest_template_ref) return field_error("templateID", "is too long");
  if (fields.timeout && *fields.timeout <= 0) return field_error("timeout", "must be greater than 0 seconds");
  CUBE_TRY(check_timeout(fields.timeout.value_or(0)));
  CUBE_TRY(apply_lifecycle(fields));
  fields.request.timeout = std::chrono::seconds(fields.timeout.value_or(default_timeout(generation).count()));
  return std::move(fields.request);
}

Result<node::Sandboxes::ResumeOptions> parse_connect(std::string_view body, Generation generation) {
  ResumeFields fields;
  CUBE_TRY(for_each_member(
      body, [&](std::string_view name, JsonValue value) { return read_resume_field(name, value, fields); }));
  return resume_options(fields, generation);
}

Result<node::Sandboxes::ResumeOptions> parse_resume(std::string_view body) {
  ResumeFields fields;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    if (name != "autoPause") return read_resume_field(name, value, fields);
    // Whether it pauses by itself was decided when it was created.
    std::optional<bool> ignored;
    return read_field(value, name, ignored);
  }));
  return resume_options(fields, Generation::v1);
}

Result<node::Sandboxes::PauseOptions> parse_pause(std::string_view body) {
  std::optional<bool> memory, healthy;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    if (name == "memory") return read_field(value, name, memory);
    if (name == "requireHealthyGuest") return read_field(value, name, healthy);
    return refuse_unknown(value, name);
  }));
  return node::Sandboxes::PauseOptions{memory.value_or(true), healthy.value_or(false)};
}

Result<SnapshotRequest> parse_snapshot(std::string_view body) {
  SnapshotRequest request;
  std::optional<bool> memory;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    if (name == "name") return value.is_null() ? Result<void>() : read_field(value, name, request.name);
    if (name == "memory") return read_field(value, name, memory);
    return refuse_unknown(value, name);
  }));
  request.with_memory = memory.value_or(true);
  if (request.name.empty()) return request;
  const std::size_t colon = request.name.find(':');
  const std::string tag = colon == std::string::npos ? "default" : request.name.substr(colon + 1);
  request.name.resize(std::min(colon, request.name.size()));
  if (tag != "default" && tag != "latest")
    return field_error("name", "may have the tag 'default' or 'latest' only");
  if (!is_template_name(request.name))
    return field_error("name", "has 1 to 128 characters of a-z, 0-9, '-' and '_'");
  return request;
}

Result<ForkRequest> parse_fork(std::string_view body) {
  std::optional<std::int64_t> timeout, count;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    if (name == "timeout") return read_field(value, name, timeout);
    if (name == "count") return read_field(value, name, count);
    return refuse_unknown(value, name);
  }));
  if (count.value_or(1) < 1 || count.value_or(1) > most_forks)
    return field_error("count", "must be 1 to " + std::to_string(most_forks));
  const auto seconds = timeout_or(timeout, default_timeout(Generation::v2));
  if (!seconds.ok()) return seconds.error();
  if (*seconds == std::chrono::seconds(0)) return field_error("timeout", "must be greater than 0 seconds");
  return ForkRequest{*seconds, static_cast<std::size_t>(count.value_or(1))};
}

Result<std::string> parse_rollback(std::string_view body) {
  std::string reference;
  CUBE_TRY(for_each_member(body, [&](std::string_view name, JsonValue value) -> Result<void> {
    return name == "snapshotID" ? read_field(value, name, reference) : refuse_unknown(value, name);
  }));
  if (reference.empty()) return field_error("snapshotID", "is required: the snapshot to go back to");
  return reference;
}

Result<std::chrono::seconds> parse_timeout(std::string_view body) {
  const auto timeout = parse_integer_body(
      body, "timeout", [](std::string_view name, JsonValue value) { return refuse_unknown(value, name); });
  if (!timeout.ok()) return timeout.error();
  if (!timeout->has_value()) return field_error("timeout", "is required: seconds from now");
  CUBE_TRY(check_timeout(**timeout));
  return std::chrono::seconds(std::max<std::int64_t>(**timeout, 0));
}

Result<std::chrono::seconds> parse_refresh(std::string_view body) {
  const auto duration = parse_integer_body(
      body, "duration", [](std::string_view name, JsonValue value) { return refuse_unknown(value, name); });
  if (!duration.ok()) return duration.error();
  const std::int64_t seconds = duration->value_or(0);
  if (seconds < 0 || seconds > longest_refresh)
    return field_error("duration", "must be between 0 and 3600 seconds");
  return std::max(std::chrono::seconds(seconds), shortest_refresh);
}

}  // namespace cube::api
