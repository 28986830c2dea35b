// cubectl sandbox snapshot, fork, rollback; cubectl snapshot list, delete.
#include "human.hpp"
#include "listing.hpp"
#include "sandbox_options.hpp"
#include "table.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

struct SnapshotOptions {
  std::string id, name;
};
struct ForkOptions {
  std::string id;
  std::int64_t count = 1, timeout = 300;
};
struct RollbackOptions {
  std::string id, snapshot;
};
struct ListOptions {
  std::string sandbox;
};
struct DeleteOptions {
  std::vector<std::string> ids;
};

std::string snapshot_body(const SnapshotOptions& options) {
  JsonWriter json;
  json.begin_object();
  if (!options.name.empty()) json.key("name").value(options.name);
  json.end_object();
  return json.take();
}

awaitable<Outcome> snapshot(Session& session, const SnapshotOptions& options) {
  const auto taken =
      co_await session.client.request("POST", sandbox_path(options.id, "/snapshots"), snapshot_body(options));
  if (!taken.ok()) co_return taken.error();
  co_return print_member(session, *taken, "snapshotID");
}

std::string fork_body(const ForkOptions& options) {
  return "{\"count\":" + std::to_string(options.count) + ",\"timeout\":" + std::to_string(options.timeout) +
         "}";
}

awaitable<Outcome> fork(Session& session, const ForkOptions& options) {
  const auto answer =
      co_await session.client.request("POST", sandbox_path(options.id, "/fork"), fork_body(options));
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  if (session.json) print_json(document->root());
  int status = 0;
  for (const JsonValue made : json_array(document->root())) {
    JsonValue part;
    if (made["sandbox"].get(part) == simdjson::SUCCESS) {
      if (!session.json) print_json(json_string(part, "sandboxID"));
      continue;
    }
    if (made["error"].get(part) == simdjson::SUCCESS)
      complain("a fork failed: " + json_string(part, "message"));
    status = 1;
  }
  co_return status;
}

std::string rollback_body(const RollbackOptions& options) {
  JsonWriter json;
  json.begin_object().key("snapshotID").value(options.snapshot).end_object();
  return json.take();
}

awaitable<Outcome> roll_back(Session& session, const RollbackOptions& options) {
  const auto done =
      co_await session.client.request("POST", sandbox_path(options.id, "/rollback"), rollback_body(options));
  if (!done.ok()) co_return done.error();
  print_state(session, options.id, "running");
  co_return 0;
}

std::vector<Table::Column> list_columns() {
  using enum Table::Align;
  return {{"SNAPSHOT", left}, {"NAMES", left}};
}

std::vector<std::string> list_row(JsonValue item) {
  std::string names;
  for (const JsonValue name : json_array(item, "names")) {
    std::string_view text;
    if (name.get(text) != simdjson::SUCCESS) continue;
    if (!names.empty()) names += ", ";
    names += text;
  }
  return {json_string(item, "snapshotID"), names};
}

awaitable<Outcome> list(Session& session, const ListOptions& options) {
  std::string path = "/snapshots?limit=100";
  if (!options.sandbox.empty()) path += "&sandboxID=" + url_encode(options.sandbox);
  const auto listing = co_await list_all(session.client, std::move(path));
  if (!listing.ok()) co_return listing.error();
  if (session.json) {
    print_items(listing->items);
    co_return 0;
  }
  Table table(list_columns());
  for (const JsonValue item : listing->items) table.add(list_row(item));
  table.print();
  co_return 0;
}

awaitable<Outcome> remove(Session& session, const DeleteOptions& options) {
  int status = 0;
  for (const std::string& id : options.ids) {
    const auto deleted = co_await session.client.request("DELETE", "/templates/" + url_encode(id));
    if (deleted.ok()) continue;
    complain(deleted.error());
    status = 1;
  }
  co_return status;
}

}  // namespace

void add_copying_commands(CommandLine& line, CLI::App& group) {
  auto taken = std::make_shared<SnapshotOptions>();
  auto* command =
      group.add_subcommand("snapshot", "capture a sandbox while it runs, and print the snapshot's id");
  add_sandbox(command, taken->id);
  command->add_option("-n,--name", taken->name, "goes over to this one if another snapshot has it");
  line.runs(command, taken, snapshot);

  auto forked = std::make_shared<ForkOptions>();
  command = group.add_subcommand("fork", "clone a sandbox as it is, and print the clones' ids");
  add_sandbox(command, forked->id);
  command->add_option("-n,--count", forked->count, "clones")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  add_timeout(command, forked->timeout, "how long they live");
  line.runs(command, forked, fork);

  auto back = std::make_shared<RollbackOptions>();
  command = group.add_subcommand("rollback", "make a sandbox what it was at one of its snapshots");
  add_sandbox(command, back->id);
  command->add_option("snapshot", back->snapshot)->required()->type_name(snapshot_type);
  line.runs(command, back, roll_back);
}

void add_snapshot_commands(CommandLine& line) {
  CLI::App* group =
      line.group("snapshot", "sandboxes captured with `sandbox snapshot`; templates of new ones");
  auto listed = std::make_shared<ListOptions>();
  auto* command = group->add_subcommand("list", "every snapshot")->alias("ls");
  command->add_option("--sandbox", listed->sandbox, "only those taken of it")->type_name(sandbox_type);
  line.runs(command, listed, list);
  auto deleted = std::make_shared<DeleteOptions>();
  command =
      group->add_subcommand("delete", "delete snapshots; sandboxes made from them live on")->alias("rm");
  command->add_option("snapshots", deleted->ids, "ids or names")->required()->type_name(snapshot_type);
  line.runs(command, deleted, remove);
}

}  // namespace cube::cubectl
