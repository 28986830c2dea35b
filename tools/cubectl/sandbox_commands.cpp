// cubectl sandbox create, list, info.
#include <cstdio>

#include "human.hpp"
#include "listing.hpp"
#include "sandbox_options.hpp"
#include "table.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

struct CreateOptions {
  std::string template_reference = "base";
  std::int64_t timeout = 300;
  std::vector<std::string> environment, metadata;
  bool auto_pause = false, auto_resume = false;
};
struct ListOptions {
  std::string states;
  std::vector<std::string> metadata;
};

void write_pairs(JsonWriter& json, std::string_view name, const std::vector<std::string>& pairs) {
  if (pairs.empty()) return;
  json.key(name).begin_object();
  for (const auto& [key, value] : to_map(pairs)) json.key(key).value(value);
  json.end_object();
}

std::string create_body(const CreateOptions& options) {
  JsonWriter json;
  json.begin_object()
      .key("templateID")
      .value(options.template_reference)
      .key("timeout")
      .value(options.timeout);
  write_pairs(json, "envVars", options.environment);
  write_pairs(json, "metadata", options.metadata);
  if (options.auto_pause) json.key("autoPause").value(true);
  if (options.auto_resume) json.key("autoResume").begin_object().key("enabled").value(true).end_object();
  json.end_object();
  return json.take();
}

awaitable<Outcome> create(Session& session, const CreateOptions& options) {
  const auto answer = co_await session.client.request("POST", "/v2/sandboxes", create_body(options));
  if (!answer.ok()) co_return answer.error();
  co_return print_member(session, *answer, "sandboxID");
}

std::string template_of(JsonValue sandbox) {
  const std::string name = json_string(sandbox, "alias");
  return name.empty() ? json_string(sandbox, "templateID") : name;
}

std::string memory_of(JsonValue value) { return std::to_string(json_integer(value, "memoryMB")) + " MiB"; }

std::vector<Table::Column> list_columns() {
  using enum Table::Align;
  return {{"SANDBOX", left}, {"TEMPLATE", left}, {"STATE", left},   {"STARTED", left},
          {"ENDS", left},    {"CPUS", right},    {"MEMORY", right}, {"METADATA", left}};
}

std::vector<std::string> list_row(JsonValue sandbox, std::int64_t now) {
  const std::string state = json_string(sandbox, "state");
  return {json_string(sandbox, "sandboxID"),
          template_of(sandbox),
          state,
          date_distance(json_string(sandbox, "startedAt"), now),
          state == "paused" ? "-" : date_distance(json_string(sandbox, "endAt"), now),
          std::to_string(json_integer(sandbox, "cpuCount")),
          memory_of(sandbox),
          json_pairs(sandbox, "metadata")};
}

awaitable<Outcome> list(Session& session, const ListOptions& options) {
  const auto listing = co_await list_all(session.client, sandboxes_path(options.states, options.metadata));
  if (!listing.ok()) co_return listing.error();
  if (session.json) {
    print_items(listing->items);
    co_return 0;
  }
  Table table(list_columns());
  for (const JsonValue sandbox : listing->items) table.add(list_row(sandbox, now_milliseconds()));
  table.print();
  co_return 0;
}

void print_detail(JsonValue sandbox) {
  const std::int64_t now = now_milliseconds();
  const auto line = [](const char* name, const std::string& value) {
    if (!value.empty()) std::printf("%-10s %s\n", name, printable(value).c_str());
  };
  const auto time = [&](const char* name) {
    const std::string date = json_string(sandbox, name);
    return date_distance(date, now) + " (" + date + ")";
  };
  const bool paused = json_string(sandbox, "state") == "paused";
  JsonValue lifecycle;
  const bool has_lifecycle = sandbox["lifecycle"].get(lifecycle) == simdjson::SUCCESS;
  line("sandbox", json_string(sandbox, "sandboxID"));
  line("template", template_of(sandbox) + " (" + json_string(sandbox, "templateID") + ")");
  line("state", json_string(sandbox, "state"));
  line("started", time("startedAt"));
  if (!paused) line("ends", time("endAt"));
  if (has_lifecycle)
    line("at end", json_string(lifecycle, "onTimeout") +
                       (json_boolean(lifecycle, "autoResume") ? ", resumed when used" : ""));
  line("cpus", std::to_string(json_integer(sandbox, "cpuCount")));
  line("memory", memory_of(sandbox));
  line("disk", std::to_string(json_integer(sandbox, "diskSizeMB")) + " MiB");
  line("metadata", json_pairs(sandbox, "metadata"));
  line("envd", json_string(sandbox, "envdVersion"));
}

awaitable<Outcome> info(Session& session, const OneSandbox& options) {
  const auto answer = co_await session.client.request("GET", sandbox_path(options.id));
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  if (session.json)
    print_json(document->root());
  else
    print_detail(document->root());
  co_return 0;
}

void add_create(CommandLine& line, CLI::App& group) {
  auto options = std::make_shared<CreateOptions>();
  auto* command = group.add_subcommand("create", "create a sandbox and print its id");
  command->add_option("template", options->template_reference, "a template or a snapshot, by name or id")
      ->type_name(template_type)
      ->capture_default_str();
  add_timeout(command, options->timeout, "how long it lives");
  add_repeated(command, "-e,--env", options->environment,
               "an environment variable of everything that runs in it");
  add_repeated(command, "--metadata", options->metadata, "to find it by");
  auto* pause = command->add_flag("--auto-pause", options->auto_pause,
                                  "pause it at its timeout, instead of killing it");
  command->add_flag("--auto-resume", options->auto_resume, "resume it when it is used")->needs(pause);
  // E2B's create opens a shell without it.
  command->add_flag("-d,--detach")
      ->description("accepted for E2B's sake: create never opens a shell; see `sandbox shell`");
  line.runs(command, options, create);
}

void add_list(CommandLine& line, CLI::App& group) {
  auto options = std::make_shared<ListOptions>();
  auto* command = group.add_subcommand("list", "sandboxes that run or are paused, newest first")->alias("ls");
  command->add_option("-s,--state", options->states, "only those")
      ->type_name("{running,paused}")
      ->check([](const std::string& states) {
        const bool known = states == "running" || states == "paused" || states == "running,paused" ||
                           states == "paused,running";
        return known ? std::string() : "must be running, paused or both with a comma";
      });
  add_repeated(command, "-m,--metadata", options->metadata, "only those created with it");
  line.runs(command, options, list);
}

}  // namespace

void add_sandbox_commands(CommandLine& line, CLI::App& group) {
  add_create(line, group);
  add_list(line, group);
  auto one = std::make_shared<OneSandbox>();
  auto* command = group.add_subcommand("info", "all about one sandbox");
  add_sandbox(command, one->id);
  line.runs(command, one, info);
}

}  // namespace cube::cubectl
