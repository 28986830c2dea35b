#include "api/sandbox_requests.hpp"

#include "api/json_reader.hpp"

namespace cube::api {
namespace {

using simdjson::dom::element_type;

constexpr StringMapLimits metadata_limits{.entries = 256, .bytes = 64 << 10};
constexpr StringMapLimits env_vars_limits{.entries = 1024, .bytes = 256 << 10};
constexpr std::int64_t longest_refresh = 3600;
constexpr std::size_t longest_template_ref = 256;

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
};

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
  if (name == "autoPause") return accept_only_default(value, name, element_type::BOOL);
  if (name == "autoPauseMemory") return accept_only_default(value, name, element_type::BOOL);
  if (name == "autoResume") return accept_only_default(value, name, element_type::OBJECT);
  if (name == "network") return accept_only_default(value, name, element_type::OBJECT);
  if (name == "mcp") return accept_only_default(value, name, element_type::OBJECT);
  if (name == "iam") return accept_only_default(value, name, element_type::OBJECT);
  if (name == "volumeMounts") return accept_only_default(value, name, element_type::ARRAY);
  return refuse_unknown(value, name);
}

// A body of one integer; `also` takes the field's siblings.
template <class OtherField>
Result<std::optional<std::int64_t>> parse_integer_body(std::string_view body, std::string_view field,
                                                       OtherField also) {
  std::optional<std::int64_t> number;
  if (body.empty()) return number;
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  for (const auto& [name, value] : *object) {
    if (name == field)
      CUBE_TRY(read_field(value, name, number));
    else
      CUBE_TRY(also(name, value));
  }
  return number;
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
  fields.request.timeout = std::chrono::seconds(fields.timeout.value_or(default_timeout(generation).count()));
  return std::move(fields.request);
}

Result<std::chrono::seconds> parse_connect(std::string_view body, Generation generation) {
  const auto timeout =
      parse_integer_body(body, "timeout", [](std::string_view name, JsonValue value) -> Result<void> {
        if (name != "memory") return refuse_unknown(value, name);
        std::optional<bool> memory;
        CUBE_TRY(read_field(value, name, memory));
        if (memory.value_or(true)) return {};
        return make_error(ErrorCode::unimplemented,
                          "'memory': false is not supported by this server yet; leave it out");
      });
  if (!timeout.ok()) return timeout.error();
  const std::int64_t seconds = timeout->value_or(default_timeout(generation).count());
  if (seconds < 0) return field_error("timeout", "must not be negative");
  CUBE_TRY(check_timeout(seconds));
  return std::chrono::seconds(seconds);
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
