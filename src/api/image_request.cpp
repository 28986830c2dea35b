#include "api/image_request.hpp"

#include <algorithm>
#include <cube/vmm.hpp>

#include "api/json_reader.hpp"

namespace cube::api {
namespace {

// Bare and without tricks: no separator, and no leading dot, so neither ".." nor a hidden file.
bool is_image_name(std::string_view text) {
  return !text.empty() && text.size() <= 200 && text.front() != '.' && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

struct Range {
  std::int64_t least, most;
};

template <class Number>
Result<void> read_number(JsonValue value, std::string_view field, Range range, Number& out) {
  std::optional<std::int64_t> number;
  CUBE_TRY(read_field(value, field, number));
  if (!number) return {};
  if (*number < range.least || *number > range.most)
    return field_error(field,
                       "must be from " + std::to_string(range.least) + " to " + std::to_string(range.most));
  out = static_cast<Number>(*number);
  return {};
}

Result<void> read_image_field(std::string_view name, JsonValue value, templates::BuildRequest& request,
                              std::string& image) {
  constexpr Range memory{static_cast<std::int64_t>(templates::least_memory_mib),
                         static_cast<std::int64_t>(templates::most_memory_mib)};
  if (name == "name") return read_field(value, name, request.name);
  if (name == "image") return read_field(value, name, image);
  if (name == "readyCmd") return read_field(value, name, request.ready_command);
  if (name == "cpuCount") return read_number(value, name, {1, vmm::max_vcpus}, request.vcpu_count);
  if (name == "memoryMB") return read_number(value, name, memory, request.memory_mib);
  if (name == "diskSizeMB") return read_number(value, name, {0, templates::most_disk_mib}, request.disk_mib);
  return refuse_unknown(value, name);
}

}  // namespace

Result<templates::BuildRequest> parse_image_request(std::string_view body,
                                                    const std::string& image_directory) {
  simdjson::dom::parser parser;
  const auto object = parse_object(parser, body);
  if (!object.ok()) return object.error();
  templates::BuildRequest request;
  std::string image;
  for (const auto& [name, value] : *object) CUBE_TRY(read_image_field(name, value, request, image));
  if (!is_template_name(request.name))
    return field_error("name", "must be 1 to 128 characters of a-z, 0-9, '-' and '_'");
  if (!is_image_name(image))
    return field_error("image",
                       "must be the name of a file in the image directory: a-z, 0-9, '.', '_' and '-', "
                       "not a path");
  request.rootfs_path = image_directory + "/" + image;
  return request;
}

}  // namespace cube::api
