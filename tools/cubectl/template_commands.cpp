// cubectl template: list, info, build, delete.
#include <cstdio>

#include "command_line.hpp"
#include "human.hpp"
#include "listing.hpp"
#include "table.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::size_t line_limit = 1 << 20;

struct NoOptions {};
struct OneTemplate {
  std::string reference;
};
struct BuildOptions {
  std::string name, image, ready_command;
  std::uint32_t cpus = 2;
  std::uint64_t memory_mib = 512, disk_mib = 0;
};

std::vector<Table::Column> list_columns() {
  using enum Table::Align;
  return {{"ID", left},      {"NAME", left},  {"CREATED", left}, {"CPUS", right},
          {"MEMORY", right}, {"DISK", right}, {"SPAWNED", right}};
}

std::string name_of(JsonValue item) {
  std::string_view name;
  const auto aliases = json_array(item, "aliases");
  if (aliases.empty() || aliases.front().get(name) != simdjson::SUCCESS) return {};
  return std::string(name);
}

std::vector<std::string> list_row(JsonValue item, std::int64_t now) {
  return {json_string(item, "templateID"),
          name_of(item),
          date_distance(json_string(item, "createdAt"), now),
          std::to_string(json_integer(item, "cpuCount")),
          std::to_string(json_integer(item, "memoryMB")) + " MiB",
          std::to_string(json_integer(item, "diskSizeMB")) + " MiB",
          std::to_string(json_integer(item, "spawnCount"))};
}

awaitable<Outcome> list(Session& session, const NoOptions&) {
  const auto listing = co_await list_all(session.client, "/templates");
  if (!listing.ok()) co_return listing.error();
  if (session.json) {
    print_items(listing->items);
    co_return 0;
  }
  Table table(list_columns());
  for (const JsonValue item : listing->items) table.add(list_row(item, now_milliseconds()));
  table.print();
  co_return 0;
}

awaitable<Outcome> info(Session& session, const OneTemplate& options) {
  const auto answer = co_await session.client.request("GET", "/templates/" + url_encode(options.reference));
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  if (session.json) {
    print_json(document->root());
    co_return 0;
  }
  const auto columns = list_columns();
  const auto values = list_row(document->root(), now_milliseconds());
  constexpr const char* names[] = {"template", "name", "created", "cpus", "memory", "disk", "spawned"};
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%-10s %s\n", names[i], printable(values[i]).c_str());
  co_return 0;
}

/// One line of a build's answer: {"progress":"…"}, {"template":{…}} or {"error":{"message":"…"}}.
Result<void> show_progress(const Session& session, std::string_view line, bool& done) {
  const auto document = JsonDocument::parse(line);
  if (!document.ok()) return document.error();
  const JsonValue event = document->root();
  JsonValue part;
  if (event["error"].get(part) == simdjson::SUCCESS)
    return make_error(ErrorCode::unavailable, json_string(part, "message"));
  if (event["template"].get(part) == simdjson::SUCCESS) {
    done = true;
    if (session.json)
      print_json(part);
    else
      print_json(json_string(part, "templateID"));
    return {};
  }
  std::fprintf(stderr, "==> %s\n", printable(json_string(event, "progress")).c_str());
  return {};
}

std::string build_body(const BuildOptions& build) {
  JsonWriter json;
  json.begin_object().key("name").value(build.name);
  json.key("image").value(build.image.empty() ? build.name + ".ext4" : build.image);
  json.key("cpuCount").value(build.cpus).key("memoryMB").value(build.memory_mib);
  if (build.disk_mib > 0) json.key("diskSizeMB").value(build.disk_mib);
  if (!build.ready_command.empty()) json.key("readyCmd").value(build.ready_command);
  json.end_object();
  return json.take();
}

awaitable<Outcome> build(Session& session, const BuildOptions& options) {
  auto opened =
      co_await session.client.open(session.client.api_head("POST", "/templates/images"), build_body(options));
  if (!opened) co_return std::move(opened).error();
  if (opened->head.status >= 300) {
    auto refused = co_await read_answer(session.client, *opened);
    co_return std::move(refused).error();
  }
  bool done = false;
  std::string pending;
  std::vector<char> chunk(16 << 10);
  for (;;) {
    const auto count = co_await opened->connection.read_body(asio::buffer(chunk));
    if (!count.ok()) co_return count.error();
    if (*count == 0) break;
    pending.append(chunk.data(), *count);
    for (std::size_t end; (end = pending.find('\n')) != std::string::npos; pending.erase(0, end + 1)) {
      const auto shown = show_progress(session, std::string_view(pending).substr(0, end), done);
      if (!shown.ok()) co_return shown.error();
    }
    if (pending.size() > line_limit)
      co_return make_error(ErrorCode::unavailable, "the daemon's answer has an endless line");
  }
  if (!done)
    co_return make_error(ErrorCode::unavailable, "the daemon ended before the build did", options.name);
  co_return 0;
}

awaitable<Outcome> remove(Session& session, const OneTemplate& options) {
  const auto answer =
      co_await session.client.request("DELETE", "/templates/" + url_encode(options.reference));
  if (!answer.ok()) co_return answer.error();
  co_return 0;
}

void add_build(CommandLine& line, CLI::App& group) {
  auto options = std::make_shared<BuildOptions>();
  auto* command = group.add_subcommand(
      "build",
      "boot a root file system of the daemon's image directory, wait until it is ready, snapshot it");
  command->add_option("name", options->name, "a-z, 0-9, '-', '_'; replaces the template of that name")
      ->required();
  command->add_option("--image", options->image, "file name in the image directory [NAME.ext4]");
  command->add_option("--cpus", options->cpus)->capture_default_str();
  command->add_option("--memory", options->memory_mib)->type_name("MIB")->capture_default_str();
  command->add_option("--disk", options->disk_mib, "[the image's size]")->type_name("MIB");
  command->add_option("--ready-cmd", options->ready_command,
                      "run in the guest until it succeeds, then snapshot");
  line.runs(command, options, build);
}

}  // namespace

void add_template_commands(CommandLine& line) {
  CLI::App* group = line.group("template", "what sandboxes are cloned from");
  line.runs(group->add_subcommand("list", "every template")->alias("ls"), std::make_shared<NoOptions>(),
            list);
  auto shown = std::make_shared<OneTemplate>();
  auto* command = group->add_subcommand("info", "all about one template");
  command->add_option("template", shown->reference, "id or name")->required()->type_name(template_type);
  line.runs(command, shown, info);
  add_build(line, *group);
  auto removed = std::make_shared<OneTemplate>();
  command = group->add_subcommand("delete", "delete a template; its sandboxes live on")->alias("rm");
  command->add_option("template", removed->reference, "id or name")->required()->type_name(template_type);
  line.runs(command, removed, remove);
}

}  // namespace cube::cubectl
