#include "api/openapi.hpp"

#include <algorithm>
#include <vector>

#include "api/actions.hpp"
#include "api/query_parameters.hpp"

namespace cube::api {
namespace {

void write_reference(JsonWriter& json, std::string_view schema) {
  json.begin_object().key("$ref").value("#/components/schemas/" + std::string(schema)).end_object();
}

void write_words(JsonWriter& json, std::string_view words) {
  json.begin_object().key("type").value("string").key("enum").begin_array();
  while (!words.empty()) json.value(take_until(words, '|'));
  json.end_array().end_object();
}

void write_formatted(JsonWriter& json, std::string_view type, std::string_view format) {
  json.begin_object().key("type").value(type).key("format").value(format).end_object();
}

void write_type(JsonWriter& json, std::string_view type);

void write_map(JsonWriter& json, std::string_view type) {
  json.begin_object().key("type").value("object").key("additionalProperties");
  write_type(json, type);
  json.end_object();
}

void write_nullable(JsonWriter& json, std::string_view type) {
  json.begin_object().key("nullable").value(true).key("allOf").begin_array();
  write_type(json, type);
  json.end_array().end_object();
}

/// The language of openapi.hpp.
void write_type(JsonWriter& json, std::string_view type) {
  if (type.ends_with('?')) return write_nullable(json, type.substr(0, type.size() - 1));
  if (type.starts_with('{')) return write_map(json, type.substr(1, type.size() - 2));
  if (type.starts_with('[')) {
    json.begin_object().key("type").value("array").key("items");
    write_type(json, type.substr(1, type.size() - 2));
    json.end_object();
    return;
  }
  if (type.find('|') != std::string_view::npos) return write_words(json, type);
  if (type.front() >= 'A' && type.front() <= 'Z') return write_reference(json, type);
  if (type == "date") return write_formatted(json, "string", "date-time");
  if (type == "uuid") return write_formatted(json, "string", "uuid");
  if (type == "integer") return write_formatted(json, "integer", "int64");
  if (type == "strings") return write_map(json, "string");
  json.begin_object().key("type").value(type).end_object();
}

struct Member {
  std::string_view name, type;
  bool required = false;
};

std::vector<Member> members_of(std::string_view text) {
  std::vector<Member> members;
  while (!text.empty()) {
    std::string_view rest = take_until(text, ' ');
    if (rest.empty()) continue;
    Member member;
    member.name = take_until(rest, ':');
    member.type = rest;
    member.required = member.name.ends_with('!');
    if (member.required) member.name.remove_suffix(1);
    members.push_back(member);
  }
  return members;
}

void write_schema(JsonWriter& json, const Schema& schema) {
  const std::vector<Member> members = members_of(schema.members);
  json.key(schema.name).begin_object().key("type").value("object");
  if (!schema.description.empty()) json.key("description").value(schema.description);
  if (std::ranges::any_of(members, &Member::required)) {
    json.key("required").begin_array();
    for (const Member& member : members)
      if (member.required) json.value(member.name);
    json.end_array();
  }
  json.key("properties").begin_object();
  for (const Member& member : members) {
    json.key(member.name);
    write_type(json, member.type);
  }
  json.end_object().end_object();
}

/// What stands for {} after a segment of that name.
std::string_view parameter_after(std::string_view segment) {
  if (segment == "sandboxes") return "sandboxID";
  if (segment == "templates") return "templateID";
  if (segment == "aliases") return "alias";
  if (segment == "builds") return "buildID";
  if (segment == "files") return "hash";
  if (segment == "volumes") return "volumeID";
  if (segment == "secrets") return "secretID";
  return "id";
}

std::vector<std::string_view> path_parameters(std::string_view pattern) {
  std::vector<std::string_view> names;
  std::string_view before;
  while (!pattern.empty()) {
    const std::string_view segment = take_until(pattern, '/');
    if (segment == "{}") names.push_back(parameter_after(before));
    before = segment;
  }
  return names;
}

void write_parameter(JsonWriter& json, std::string_view place, const Member& parameter) {
  json.begin_object().key("name").value(parameter.name).key("in").value(place);
  json.key("required").value(parameter.required).key("schema");
  write_type(json, parameter.type);
  json.end_object();
}

void write_parameters(JsonWriter& json, const Operation& operation) {
  json.key("parameters").begin_array();
  for (const std::string_view name : path_parameters(operation.pattern))
    write_parameter(json, "path", {name, "string", true});
  for (Member parameter : members_of(operation.parameters)) {
    const bool header = parameter.name.starts_with('@');
    if (header) parameter.name.remove_prefix(1);
    write_parameter(json, header ? "header" : "query", parameter);
  }
  json.end_array();
}

void write_content(JsonWriter& json, std::string_view type) {
  const bool text = type.find('/') != std::string_view::npos;
  json.key("content").begin_object().key(text ? type : "application/json").begin_object().key("schema");
  write_type(json, text ? "string" : type);
  json.end_object().end_object();
}

void write_body(JsonWriter& json, std::string_view schema) {
  if (schema.empty()) return;
  const bool optional = schema.ends_with('?');
  if (optional) schema.remove_suffix(1);
  json.key("requestBody").begin_object().key("required").value(!optional);
  write_content(json, schema);
  json.end_object();
}

void write_answer(JsonWriter& json, std::string_view line) {
  const std::string_view status = take_until(line, ' ');
  const std::string_view type = take_until(line, ' ');
  json.key(status)
      .begin_object()
      .key("description")
      .value(http::reason_phrase(std::stoi(std::string(status))));
  if (!line.empty()) {
    json.key("headers").begin_object();
    while (!line.empty()) {
      json.key(take_until(line, ' ')).begin_object().key("schema");
      write_type(json, "string");
      json.end_object();
    }
    json.end_object();
  }
  if (!type.empty()) write_content(json, type);
  json.end_object();
}

void write_problem(JsonWriter& json, std::string_view status) {
  json.key(status).begin_object();
  json.key("$ref").value("#/components/responses/Error").end_object();
}

void write_operation(JsonWriter& json, const Route& route, const Operation& operation) {
  std::string method(operation.method);
  std::ranges::transform(method, method.begin(), [](char c) { return static_cast<char>(c + ('a' - 'A')); });
  json.key(method).begin_object().key("summary").value(operation.summary);
  json.key("security").begin_array();
  if (route.access != Access::open)
    json.begin_object().key("ApiKeyAuth").begin_array().end_array().end_object();
  if (route.access == Access::key_or_bearer)
    json.begin_object().key("BearerAuth").begin_array().end_array().end_object();
  json.end_array();
  write_parameters(json, operation);
  write_body(json, operation.body);
  json.key("responses").begin_object();
  for (std::string_view lines = operation.answers; !lines.empty();)
    write_answer(json, take_until(lines, '\n'));
  for (std::string_view statuses = operation.problems; !statuses.empty();)
    write_problem(json, take_until(statuses, ' '));
  if (route.access != Access::open) write_problem(json, "401");
  write_problem(json, "500");
  json.end_object().end_object();
}

bool implemented(const Route& route) { return route.action != nullptr && operation_of(route) != nullptr; }

void write_paths(JsonWriter& json, std::span<const Route> routes) {
  json.key("paths").begin_object();
  for (auto route = routes.begin(); route != routes.end(); ++route) {
    const auto same_path = [&](const Route& other) {
      return other.pattern == route->pattern && implemented(other);
    };
    if (std::any_of(routes.begin(), route, same_path) || !std::any_of(route, routes.end(), same_path))
      continue;
    json.key(documented_path(route->pattern)).begin_object();
    for (const Route& other : routes)
      if (same_path(other)) write_operation(json, other, *operation_of(other));
    json.end_object();
  }
  json.end_object();
}

void write_components(JsonWriter& json) {
  json.key("components").begin_object().key("securitySchemes").begin_object();
  json.key("ApiKeyAuth").begin_object().key("type").value("apiKey").key("in").value("header");
  json.key("name").value("X-API-Key").end_object();
  json.key("BearerAuth").begin_object().key("type").value("http").key("scheme").value("bearer").end_object();
  json.end_object().key("responses").begin_object().key("Error").begin_object();
  json.key("description").value("What was wrong; code is the status");
  write_content(json, "Error");
  json.end_object().end_object().key("schemas").begin_object();
  for (const Schema& schema : documented_schemas()) write_schema(json, schema);
  json.end_object().end_object();
}

}  // namespace

const Operation* operation_of(const Route& route) {
  const auto operations = documented_operations();
  const auto found = std::ranges::find_if(operations, [&](const Operation& operation) {
    return operation.method == route.method && operation.pattern == route.pattern;
  });
  return found == operations.end() ? nullptr : &*found;
}

std::string documented_path(std::string_view pattern) {
  std::string path;
  for (const std::string_view name : path_parameters(pattern)) {
    path.append(take_until(pattern, '{')).append("{").append(name).append("}");
    pattern.remove_prefix(1);
  }
  return path.append(pattern);
}

std::string openapi_document(std::span<const Route> routes) {
  JsonWriter json;
  json.begin_object().key("openapi").value("3.0.3").key("info").begin_object();
  json.key("title").value("cubed").key("version").value("1");
  json.key("description")
      .value(
          "E2B's control API as cubed implements it, and what is cubed's own beside it. What a request asks "
          "for and is not there is refused by name.");
  json.end_object();
  write_paths(json, routes);
  write_components(json);
  return json.end_object().take();
}

Answering get_openapi(const Context&, Call&) {
  static const std::string document = openapi_document(all_routes());
  co_return json_answer(200, document);
}

}  // namespace cube::api
