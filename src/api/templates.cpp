// The calls about templates.
#include <cube/guest.hpp>

#include "api/actions.hpp"
#include "api/template_json.hpp"
#include "api/time_text.hpp"

namespace cube::api {
namespace {

// A template has exactly one build here, so they share the id.
void write_members(JsonWriter& json, const templates::TemplateInfo& info) {
  const std::string created_at = date_text(info.created_at);
  json.key("templateID").value(info.id).key("buildID").value(info.id);
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
  json.key("buildID").value(info.id).key("status").value("ready");
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

Answering list_templates(const Context& context, Call&) {
  JsonWriter json;
  json.begin_array();
  for (const templates::TemplateInfo& info : context.templates.list()) write_template(json, info);
  json.end_array();
  co_return json_answer(200, json.take());
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
