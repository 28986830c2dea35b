// The calls about templates.
#include <cube/guest.hpp>

#include "api/actions.hpp"
#include "api/json_reader.hpp"
#include "api/list_query.hpp"
#include "api/template_json.hpp"
#include "api/time_text.hpp"

namespace cube::api {
namespace {

// A template has exactly one build here, so its id says which: E2B's are UUIDs, and some clients insist.
std::string build_id(const templates::TemplateInfo& info) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string uuid;
  for (std::size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) uuid += '-';
    const auto byte = static_cast<unsigned char>(i < info.id.size() ? info.id[i] : 0);
    uuid += digits[byte >> 4];
    uuid += digits[byte & 15];
  }
  return uuid;
}

void write_members(JsonWriter& json, const templates::TemplateInfo& info) {
  const std::string created_at = date_text(info.created_at);
  json.key("templateID").value(info.id).key("buildID").value(build_id(info));
  for (const char* list : {"names", "aliases"}) {
    json.key(list).begin_array();
    if (!info.name.empty()) json.value(info.name);
    json.end_array();
  }
  json.key("public").value(false);
  json.key("cpuCount").value(info.vcpu_count).key("memoryMB").value(info.memory_mib);
  json.key("diskSizeMB").value(info.disk_mib);
  json.key("createdAt").value(created_at).key("updatedAt").value(created_at);
  json.key("createdBy").null().key("lastSpawnedAt").null();
  json.key("spawnCount").value(info.spawn_count).key("buildCount").value(1);
  json.key("envdVersion").value(guest::envd_version).key("buildStatus").value("ready");
}

void write_build(JsonWriter& json, const templates::TemplateInfo& info) {
  const std::string created_at = date_text(info.created_at);
  json.begin_object();
  json.key("buildID").value(build_id(info)).key("status").value("ready");
  json.key("createdAt")
      .value(created_at)
      .key("updatedAt")
      .value(created_at)
      .key("finishedAt")
      .value(created_at);
  json.key("cpuCount").value(info.vcpu_count).key("memoryMB").value(info.memory_mib);
  json.key("diskSizeMB").value(info.disk_mib).key("envdVersion").value(guest::envd_version);
  json.end_object();
}

std::string templates_json(const std::vector<templates::TemplateInfo>& infos) {
  JsonWriter json;
  json.begin_array();
  for (const templates::TemplateInfo& info : infos) write_template(json, info);
  return json.end_array().take();
}

/// {"public": bool}
Result<bool> parse_publication(std::string_view body) {
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  std::optional<bool> is_public;
  for (const auto& [name, value] : *object)
    CUBE_TRY(name == "public" ? read_field(value, name, is_public) : refuse_unknown(value, name));
  return is_public.value_or(false);
}

Answer template_problem(const Context& context, const std::string& reference, const Error& error) {
  if (error.code == ErrorCode::not_found) return template_not_found(context, reference);
  return problem_of(error);
}

}  // namespace

void write_template(JsonWriter& json, const templates::TemplateInfo& info) {
  json.begin_object();
  write_members(json, info);
  json.end_object();
}

Answer template_not_found(const Context& context, std::string_view reference) {
  const std::string text(reference.substr(0, 256));
  const std::size_t colon = text.rfind(':');
  if (colon != std::string::npos) {
    const std::string name = text.substr(0, colon);
    if (context.templates.find(name).ok())
      return problem(404, "tag '" + text.substr(colon + 1) + "' does not exist for template '" + name + "'");
  }
  return problem(404, "template '" + text + "' not found");
}

Answering list_templates_v1(const Context& context, Call&) {
  co_return json_answer(200, templates_json(context.templates.list()));
}

Answering list_templates_v2(const Context& context, Call& call) {
  const auto query = parse_page_query(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  const TemplatePage page = select_page(context.templates.list(), *query);
  Answer answer = json_answer(200, templates_json(page.templates));
  if (!page.next_token.empty()) answer.headers.add("X-Next-Token", page.next_token);
  co_return answer;
}

Answering get_template(const Context& context, Call& call) {
  const std::string& reference = call.parameters.front();
  const auto info = context.templates.find(reference);
  if (!info.ok()) co_return template_problem(context, reference, info.error());
  JsonWriter json;
  json.begin_object();
  write_members(json, *info);
  json.key("builds").begin_array();
  write_build(json, *info);
  json.end_array().end_object();
  co_return json_answer(200, json.take());
}

Answering remove_template(const Context& context, Call& call) {
  const std::string& reference = call.parameters.front();
  // Snapshots are deleted as templates.
  auto snapshot = co_await context.sandboxes.checkpoints().remove(reference);
  if (snapshot.ok()) co_return no_content();
  if (snapshot.error().code != ErrorCode::not_found) co_return problem_of(snapshot.error());
  auto removed = co_await context.templates.remove(reference);
  if (!removed.ok()) co_return template_problem(context, reference, removed.error());
  co_return no_content();
}

/// What the CLI's `template publish` and `unpublish` call.
Answering update_template(const Context& context, Call& call) {
  const std::string& reference = call.parameters.front();
  const auto info = context.templates.find(reference);
  if (!info.ok()) co_return template_problem(context, reference, info.error());
  const auto is_public = parse_publication(call.body);
  if (!is_public.ok()) co_return problem_of(is_public.error());
  if (*is_public)
    co_return problem(501,
                      "'public': true is not supported: whoever has this server's key has its templates");
  JsonWriter json;
  json.begin_object().key("names").begin_array();
  if (!info->name.empty()) json.value(info->name);
  json.end_array().end_object();
  co_return json_answer(200, json.take());
}

Answering list_template_tags(const Context& context, Call& call) {
  const std::string& reference = call.parameters.front();
  const auto info = context.templates.find(reference);
  if (!info.ok()) co_return template_problem(context, reference, info.error());
  JsonWriter json;
  json.begin_array().begin_object().key("tag").value("default").key("buildID").value(build_id(*info));
  json.key("createdAt").value(date_text(info->created_at)).end_object().end_array();
  co_return json_answer(200, json.take());
}

Answering find_template_alias(const Context& context, Call& call) {
  const std::string& alias = call.parameters.front();
  if (const auto snapshot = context.sandboxes.checkpoints().find(alias); snapshot.ok()) {
    JsonWriter json;
    json.begin_object().key("templateID").value(snapshot->id).key("public").value(false).end_object();
    co_return json_answer(200, json.take());
  }
  const auto info = context.templates.find(alias);
  if (!info.ok()) co_return template_problem(context, alias, info.error());
  JsonWriter json;
  json.begin_object().key("templateID").value(info->id).key("public").value(false).end_object();
  co_return json_answer(200, json.take());
}

}  // namespace cube::api
