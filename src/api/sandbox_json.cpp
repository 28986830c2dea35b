#include "api/sandbox_json.hpp"

#include "api/time_text.hpp"

namespace cube::api {
namespace {

// What E2B's clients have required ever since and nobody reads.
constexpr std::string_view client_id = "6532622b";

void write_identity(JsonWriter& json, const node::SandboxInfo& info) {
  json.key("templateID").value(info.template_id).key("sandboxID").value(info.id);
  json.key("clientID").value(client_id).key("envdVersion").value(info.envd_version);
  if (!info.template_name.empty()) json.key("alias").value(info.template_name);
}

void write_envd_access(JsonWriter& json, const node::SandboxInfo& info, const std::string& domain) {
  if (!info.access_token.empty()) json.key("envdAccessToken").value(info.access_token);
  if (!domain.empty()) json.key("domain").value(domain);
}

void write_network(JsonWriter& json, const node::NetworkPolicy& network) {
  json.key("network").begin_object().key("allowPublicTraffic").value(network.allow_public_traffic);
  if (!network.mask_request_host.empty()) json.key("maskRequestHost").value(network.mask_request_host);
  json.key("allowOut").begin_array().end_array();
  json.key("denyOut").begin_array();
  for (const std::string& destination : network.egress.deny_out) json.value(destination);
  json.end_array().end_object();
}

void write_status(JsonWriter& json, const node::SandboxInfo& info) {
  // Clients know two states; a sandbox that pauses or resumes is one that runs.
  json.key("state").value(info.state == node::SandboxState::paused ? "paused" : "running");
  json.key("startedAt").value(date_text(info.started_at)).key("endAt").value(date_text(info.end_at));
  json.key("cpuCount").value(info.vcpu_count).key("memoryMB").value(info.memory_mib);
  json.key("diskSizeMB").value(info.disk_mib);
  json.key("metadata").begin_object();
  for (const auto& [name, value] : info.metadata) json.key(name).value(value);
  json.end_object();
  json.key("volumeMounts").begin_array().end_array();
  if (info.agent_silent) json.key("envdUnresponsiveAtPause").value(true);
}

}  // namespace

std::string sandbox_json(const node::SandboxInfo& info, const std::string& domain) {
  JsonWriter json;
  json.begin_object();
  write_identity(json, info);
  write_envd_access(json, info, domain);
  if (!info.traffic_access_token.empty()) json.key("trafficAccessToken").value(info.traffic_access_token);
  json.end_object();
  return json.take();
}

std::string sandbox_detail_json(const node::SandboxInfo& info, const std::string& domain) {
  JsonWriter json;
  json.begin_object();
  write_identity(json, info);
  write_envd_access(json, info, domain);
  write_status(json, info);
  json.key("allowInternetAccess").value(false);
  write_network(json, info.network);
  json.key("lifecycle")
      .begin_object()
      .key("autoResume")
      .value(info.auto_resume)
      .key("onTimeout")
      .value(info.auto_pause ? "pause" : "kill")
      .end_object();
  if (info.state == node::SandboxState::paused)
    json.key("pauseMode").value(info.paused_with_memory ? "full" : "filesystem");
  json.end_object();
  return json.take();
}

void write_listed_sandbox(JsonWriter& json, const node::SandboxInfo& info) {
  json.begin_object();
  write_identity(json, info);
  write_status(json, info);
  json.end_object();
}

}  // namespace cube::api
