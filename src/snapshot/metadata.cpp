#include "snapshot/metadata.hpp"

#include <simdjson.h>

#include <limits>
#include <span>

namespace cube::snapshot {
namespace {

Error corrupt(std::string reason) {
  return make_error(ErrorCode::corrupt, std::move(reason), "snapshot.json");
}

/// The value of an integer key; 0 if it is anything else, which the comparison with what is written notices.
std::uint64_t number(simdjson::dom::object object, std::string_view key) {
  std::uint64_t value = 0;
  return object.at_key(key).get_uint64().get(value) == simdjson::SUCCESS ? value : 0;
}

}  // namespace

Result<void> check_shape(const Shape& shape) {
  const auto invalid = [](std::string reason) {
    return make_error(ErrorCode::invalid_argument, std::move(reason));
  };
  if (shape.vcpu_count == 0 || shape.vcpu_count > vmm::max_vcpus)
    return invalid("a machine has 1 to " + std::to_string(vmm::max_vcpus) + " vCPUs");
  if (shape.memory_bytes == 0 || shape.memory_bytes % vmm::page_size != 0)
    return invalid("a machine's memory is made of whole pages");
  if (shape.disk_bytes == 0 || shape.disk_bytes % 512 != 0)
    return invalid("a machine's disk is made of whole 512-byte sectors");
  return {};
}

Result<void> check_metadata(const Metadata& metadata) {
  CUBE_TRY(check_shape(metadata.shape));
  const auto invalid = [](const char* reason) { return make_error(ErrorCode::invalid_argument, reason); };
  if (metadata.state_bytes > most_state_bytes) return invalid("no machine's state has that size");
  if (metadata.memory_layers > most_layers || metadata.disk_layers > most_layers)
    return invalid("more layers than are ever kept: merge them");
  if (metadata.state_bytes == 0 &&
      (metadata.state_crc32c != 0 || metadata.memory_crc32c != 0 || metadata.memory_layers != 0))
    return invalid("memory without a state");
  return {};
}

std::string to_json(const Metadata& metadata) {
  JsonWriter json;
  json.begin_object()
      .key("format_version")
      .value(format_version)
      .key("vcpu_count")
      .value(metadata.shape.vcpu_count)
      .key("memory_bytes")
      .value(metadata.shape.memory_bytes)
      .key("disk_bytes")
      .value(metadata.shape.disk_bytes)
      .key("state_bytes")
      .value(metadata.state_bytes)
      .key("state_crc32c")
      .value(metadata.state_crc32c)
      .key("memory_crc32c")
      .value(metadata.memory_crc32c)
      .key("memory_layers")
      .value(metadata.memory_layers)
      .key("disk_layers")
      .value(metadata.disk_layers);
  // The last key is the checksum of the text before it.
  const std::string& before = json.text();
  const std::uint32_t checksum = crc32c(std::as_bytes(std::span(before.data(), before.size())));
  json.key("crc32c").value(checksum).end_object();
  return json.take() + "\n";
}

Result<Metadata> parse_metadata(std::string_view text) {
  simdjson::dom::parser parser;
  simdjson::dom::object object;
  if (parser.parse(simdjson::padded_string(text)).get_object().get(object) != simdjson::SUCCESS)
    return corrupt("not a JSON object");

  const std::uint64_t version = number(object, "format_version");
  if (version == 0) return corrupt("no format version");
  if (version != format_version)
    return make_error(ErrorCode::conflict,
                      "snapshot format " + std::to_string(version) + ", this program reads format " +
                          std::to_string(format_version) + ": make the snapshot again",
                      "snapshot.json");

  Metadata metadata;
  metadata.shape.vcpu_count = static_cast<std::uint32_t>(number(object, "vcpu_count"));
  metadata.shape.memory_bytes = number(object, "memory_bytes");
  metadata.shape.disk_bytes = number(object, "disk_bytes");
  metadata.state_bytes = number(object, "state_bytes");
  metadata.state_crc32c = static_cast<std::uint32_t>(number(object, "state_crc32c"));
  metadata.memory_crc32c = static_cast<std::uint32_t>(number(object, "memory_crc32c"));
  metadata.memory_layers = number(object, "memory_layers");
  metadata.disk_layers = number(object, "disk_layers");

  // Missing, unknown or doubled keys, other types, values cut to size above, a wrong checksum: all differ
  // here.
  if (to_json(metadata) != text) return corrupt("it is not what was written: checksum or layout differ");
  if (const auto checked = check_metadata(metadata); !checked) return corrupt(checked.error().message);
  return metadata;
}

}  // namespace cube::snapshot
