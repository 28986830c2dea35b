// cubectl: the command line of a cubed daemon.
#include <simdjson.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "cert.hpp"
#include "client.hpp"

namespace cube::cubectl {
namespace {

struct Options {
  Target target;
  std::string api_key_file;
  bool json = false;
};

struct Build {
  std::string name, image, ready_command;
  std::uint32_t cpus = 2;
  std::uint64_t memory_mib = 512, disk_mib = 0;
};

Result<void> load_key(Options& options) {
  if (!options.target.api_key.empty() || options.api_key_file.empty()) return {};
  auto key = read_file(options.api_key_file, 4096);
  if (!key) return std::move(key).error();
  options.target.api_key = key->substr(0, key->find_first_of("\r\n"));
  return {};
}

std::string encode_path_segment(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~')
      out += c;
    else
      (out += '%').append({digits[byte >> 4], digits[byte & 15]});
  }
  return out;
}

Result<void> bad_answer() { return make_error(ErrorCode::unavailable, "the daemon's answer makes no sense"); }

Result<void> list_templates(const Options& options) {
  const auto answer = call(options.target, "GET", "/templates");
  if (!answer) return answer.error();
  if (options.json) {
    std::puts(answer->c_str());
    return {};
  }
  simdjson::dom::parser parser;
  simdjson::dom::array templates;
  if (parser.parse(*answer).get(templates) != simdjson::SUCCESS) return bad_answer();
  std::printf("%-22s %-24s %5s %10s %10s %8s\n", "ID", "NAME", "CPUS", "MEMORY", "DISK", "SPAWNED");
  for (const simdjson::dom::element item : templates) {
    std::string_view id, name;
    std::int64_t cpus = 0, memory = 0, disk = 0, spawned = 0;
    simdjson::dom::array aliases;
    if (item["templateID"].get(id) != simdjson::SUCCESS || item["cpuCount"].get(cpus) != simdjson::SUCCESS ||
        item["memoryMB"].get(memory) != simdjson::SUCCESS ||
        item["diskSizeMB"].get(disk) != simdjson::SUCCESS)
      return bad_answer();
    if (item["aliases"].get(aliases) == simdjson::SUCCESS && aliases.size() > 0)
      if (aliases.at(0).get(name) != simdjson::SUCCESS) return bad_answer();
    if (item["spawnCount"].get(spawned) != simdjson::SUCCESS) spawned = 0;
    std::printf("%-22.*s %-24.*s %5ld %6ld MiB %6ld MiB %8ld\n", static_cast<int>(id.size()), id.data(),
                static_cast<int>(name.size()), name.data(), cpus, memory, disk, spawned);
  }
  return {};
}

/// One line of a build's answer: {"progress":"…"}, {"template":{…}} or {"error":{"message":"…"}}.
Result<void> show_progress(const Options& options, std::string_view line, bool& done) {
  simdjson::dom::parser parser;
  simdjson::dom::element event;
  std::string_view text;
  if (parser.parse(line.data(), line.size()).get(event) != simdjson::SUCCESS) return bad_answer();
  if (event["progress"].get(text) == simdjson::SUCCESS) {
    std::fprintf(stderr, "==> %.*s\n", static_cast<int>(text.size()), text.data());
    return {};
  }
  if (event["error"]["message"].get(text) == simdjson::SUCCESS)
    return make_error(ErrorCode::unavailable, std::string(text));
  if (event["template"]["templateID"].get(text) != simdjson::SUCCESS) return bad_answer();
  done = true;
  if (options.json)
    std::printf("%s\n", simdjson::minify(event["template"].value_unsafe()).c_str());
  else
    std::printf("%.*s\n", static_cast<int>(text.size()), text.data());
  return {};
}

Result<void> build_template(const Options& options, const Build& build) {
  JsonWriter json;
  json.begin_object().key("name").value(build.name).key("image").value(build.image);
  json.key("cpuCount").value(build.cpus).key("memoryMB").value(build.memory_mib);
  if (build.disk_mib > 0) json.key("diskSizeMB").value(build.disk_mib);
  if (!build.ready_command.empty()) json.key("readyCmd").value(build.ready_command);
  json.end_object();
  bool done = false;
  CUBE_TRY(call_streaming(options.target, "POST", "/templates/images", json.take(),
                          [&](std::string_view line) { return show_progress(options, line, done); }));
  if (!done) return make_error(ErrorCode::unavailable, "the daemon ended before the build did");
  return {};
}

Result<void> delete_template(const Options& options, const std::string& reference) {
  const auto answer = call(options.target, "DELETE", "/templates/" + encode_path_segment(reference));
  if (!answer) return answer.error();
  return {};
}

int report(const Result<void>& result) {
  if (result.ok()) return 0;
  std::fprintf(stderr, "cubectl: %s\n", result.error().describe().c_str());
  return 1;
}

int main(int argc, char** argv) {
  Options options;
  Build build;
  std::string reference;
  int status = 0;
  const auto guarded = [&](auto command) {
    return [&, command] {
      const auto loaded = load_key(options);
      status = report(loaded.ok() ? command() : loaded);
    };
  };

  CLI::App app{"cubectl: the command line of a cubed daemon"};
  app.set_version_flag("--version", std::string("cubectl ") + CUBED_VERSION);
  app.require_subcommand(1);
  app.add_option("--api-url", options.target.url, "the daemon")
      ->envname("E2B_API_URL")
      ->capture_default_str();
  app.add_option("--api-key", options.target.api_key)->envname("E2B_API_KEY");
  app.add_option("--api-key-file", options.api_key_file,
                 "read the key from this file, e.g. /var/lib/cubed/api-key");
  app.add_flag("--json", options.json, "print JSON");

  auto* templates = app.add_subcommand("template", "what sandboxes are cloned from")->require_subcommand(1);
  templates->fallthrough();
  templates->add_subcommand("list", "every template")->callback(guarded([&] {
    return list_templates(options);
  }));
  auto* builder = templates->add_subcommand(
      "build",
      "boot a root file system of the daemon's image directory, wait until it is ready, snapshot it");
  builder->add_option("name", build.name, "a-z, 0-9, '-', '_'; replaces the template of that name")
      ->required();
  builder->add_option("--image", build.image, "file name in the image directory [NAME.ext4]");
  builder->add_option("--cpus", build.cpus)->capture_default_str();
  builder->add_option("--memory", build.memory_mib, "MiB")->capture_default_str();
  builder->add_option("--disk", build.disk_mib, "MiB [the image's size]");
  builder->add_option("--ready-cmd", build.ready_command,
                      "run in the guest until it succeeds, then snapshot");
  builder->callback(guarded([&] {
    if (build.image.empty()) build.image = build.name + ".ext4";
    return build_template(options, build);
  }));
  auto* deleter = templates->add_subcommand("delete", "delete a template; its sandboxes live on");
  deleter->add_option("template", reference, "id or name")->required();
  deleter->callback(guarded([&] { return delete_template(options, reference); }));
  for (auto* command : templates->get_subcommands({})) command->fallthrough();

  add_certificate_commands(app);

  CLI11_PARSE(app, argc, argv);
  return status;
}

}  // namespace
}  // namespace cube::cubectl

int main(int argc, char** argv) { return cube::cubectl::main(argc, argv); }
