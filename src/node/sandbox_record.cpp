#include "node/sandbox_record.hpp"

#include <simdjson.h>

namespace cube::node {
namespace {

using StringMap = std::map<std::string, std::string>;

void put_map(JsonWriter& json, std::string_view key, const StringMap& map) {
  json.key(key).begin_object();
  for (const auto& [name, value] : map) json.key(name).value(value);
  json.end_object();
}

bool get(simdjson::dom::object object, std::string_view key, std::string& value) {
  std::string_view text;
  if (object.at_key(key).get(text) != simdjson::SUCCESS) return false;
  value = text;
  return true;
}

bool get(simdjson::dom::object object, std::string_view key, bool& value) {
  return object.at_key(key).get(value) == simdjson::SUCCESS;
}

template <class Number>
bool get_number(simdjson::dom::object object, std::string_view key, Number& value) {
  std::uint64_t number = 0;
  if (object.at_key(key).get(number) != simdjson::SUCCESS) return false;
  value = static_cast<Number>(number);
  return true;
}

bool get(simdjson::dom::object object, std::string_view key, StringMap& map) {
  simdjson::dom::object members;
  if (object.at_key(key).get(members) != simdjson::SUCCESS) return false;
  for (const auto& [name, value] : members) {
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) return false;
    map[std::string(name)] = text;
  }
  return true;
}

bool get(simdjson::dom::object object, std::string_view key, std::vector<std::string>& list) {
  simdjson::dom::array items;
  if (object.at_key(key).get(items) != simdjson::SUCCESS) return false;
  for (const auto item : items) {
    std::string_view text;
    if (item.get(text) != simdjson::SUCCESS) return false;
    list.emplace_back(text);
  }
  return true;
}

/// Sandboxes that were paused before there was such a thing have none.
bool read_network(simdjson::dom::object record, SandboxInfo& info) {
  simdjson::dom::object object;
  const auto error = record.at_key("network").get(object);
  if (error == simdjson::NO_SUCH_FIELD) return true;
  NetworkPolicy& network = info.network;
  return error == simdjson::SUCCESS && get(object, "allow_public_traffic", network.allow_public_traffic) &&
         get(object, "traffic_access_token", info.traffic_access_token) &&
         get(object, "mask_request_host", network.mask_request_host) &&
         get(object, "deny_out", network.egress.deny_out);
}

void put_network(JsonWriter& json, const SandboxInfo& info) {
  const NetworkPolicy& network = info.network;
  json.key("network").begin_object();
  json.key("allow_public_traffic").value(network.allow_public_traffic);
  json.key("traffic_access_token").value(info.traffic_access_token);
  json.key("mask_request_host").value(network.mask_request_host);
  json.key("deny_out").begin_array();
  for (const std::string& destination : network.egress.deny_out) json.value(destination);
  json.end_array().end_object();
}

bool read(simdjson::dom::object object, Sandbox& sandbox) {
  SandboxInfo& info = sandbox.info;
  std::uint64_t timeout = 0;
  const bool complete =
      get(object, "template_name", info.template_name) && get_number(object, "vcpu_count", info.vcpu_count) &&
      get_number(object, "memory_mib", info.memory_mib) && get_number(object, "disk_mib", info.disk_mib) &&
      get(object, "metadata", info.metadata) && get(object, "env_vars", sandbox.env_vars) &&
      get(object, "envd_version", info.envd_version) && get(object, "access_token", info.access_token) &&
      get(object, "auto_pause", info.auto_pause) &&
      get(object, "auto_pause_memory", info.auto_pause_memory) &&
      get(object, "auto_resume", info.auto_resume) &&
      get(object, "paused_with_memory", info.paused_with_memory) &&
      get_number(object, "timeout_s", timeout) && get(object, "checkpoint_id", sandbox.checkpoint_id) &&
      read_network(object, info);
  sandbox.timeout = std::chrono::seconds(timeout);
  return complete;
}

}  // namespace

SandboxRow to_row(const Sandbox& sandbox) {
  const SandboxInfo& info = sandbox.info;
  JsonWriter json;
  json.begin_object();
  json.key("template_name").value(info.template_name).key("vcpu_count").value(info.vcpu_count);
  json.key("memory_mib").value(info.memory_mib).key("disk_mib").value(info.disk_mib);
  put_map(json, "metadata", info.metadata);
  put_map(json, "env_vars", sandbox.env_vars);
  json.key("envd_version").value(info.envd_version).key("access_token").value(info.access_token);
  json.key("auto_pause").value(info.auto_pause).key("auto_pause_memory").value(info.auto_pause_memory);
  json.key("auto_resume").value(info.auto_resume).key("paused_with_memory").value(info.paused_with_memory);
  json.key("timeout_s").value(sandbox.timeout.count()).key("checkpoint_id").value(sandbox.checkpoint_id);
  put_network(json, info);
  json.end_object();
  return {info.id,
          info.template_id,
          std::string(to_string(info.state)),
          to_ms(info.started_at),
          to_ms(info.end_at),
          json.take()};
}

Result<void> from_row(const SandboxRow& row, Sandbox& sandbox) {
  sandbox.info.id = row.id;
  sandbox.info.template_id = row.template_id;
  sandbox.info.started_at = from_ms(row.started_at_ms);
  sandbox.info.end_at = from_ms(row.end_at_ms);
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(row.record).get(object) != simdjson::SUCCESS || !read(object, sandbox))
    return make_error(ErrorCode::corrupt, "the store's record of a sandbox makes no sense", row.id);
  return {};
}

}  // namespace cube::node
