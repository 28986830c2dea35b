// cubectl sandbox kill, pause, resume, timeout.
#include <unistd.h>

#include <cstdio>

#include "listing.hpp"
#include "sandbox_options.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

struct KillOptions {
  std::vector<std::string> ids;
  bool all = false, yes = false;
};
struct ResumeOptions {
  std::string id;
  std::int64_t timeout = 300;
};
struct TimeoutOptions {
  std::string id;
  std::int64_t seconds = 0;
};

Result<void> ask(std::size_t count) {
  if (::isatty(0) != 1)
    return make_error(ErrorCode::invalid_argument, "would kill " + std::to_string(count) +
                                                       " sandboxes; say --yes, as there is nobody to ask");
  std::fprintf(stderr, "Kill %zu sandboxes? [y/N] ", count);
  char answer[16];
  if (std::fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y')) return {};
  return make_error(ErrorCode::cancelled, "nothing was killed");
}

awaitable<Result<std::vector<std::string>>> everything(Client& client) {
  const auto listing = co_await list_all(client, sandboxes_path({}, {}));
  if (!listing.ok()) co_return listing.error();
  std::vector<std::string> ids;
  for (const JsonValue sandbox : listing->items) ids.push_back(json_string(sandbox, "sandboxID"));
  co_return ids;
}

awaitable<Outcome> kill(Session& session, const KillOptions& options) {
  std::vector<std::string> ids = options.ids;
  if (ids.empty() && !options.all)
    co_return make_error(ErrorCode::invalid_argument, "which sandboxes? name them, or say --all");
  if (options.all) {
    auto found = co_await everything(session.client);
    if (!found) co_return std::move(found).error();
    ids = std::move(*found);
    const auto agreed = options.yes || ids.empty() ? Result<void>() : ask(ids.size());
    if (!agreed.ok()) co_return agreed.error();
  }
  int status = 0;
  for (const std::string& id : ids) {
    const auto killed = co_await session.client.request("DELETE", sandbox_path(id));
    if (killed.ok()) {
      print_state(session, id, "killed");
      continue;
    }
    // With --all, one that has ended by itself is no failure.
    if (options.all && killed.error().code == ErrorCode::not_found) continue;
    complain(killed.error());
    status = 1;
  }
  co_return status;
}

awaitable<Outcome> pause(Session& session, const OneSandbox& options) {
  const auto paused = co_await session.client.request("POST", sandbox_path(options.id, "/pause"), "{}");
  if (!paused.ok()) co_return paused.error();
  print_state(session, options.id, "paused");
  co_return 0;
}

awaitable<Outcome> resume(Session& session, const ResumeOptions& options) {
  const auto resumed = co_await session.client.request("POST", "/v2" + sandbox_path(options.id, "/connect"),
                                                       timeout_body(options.timeout));
  if (!resumed.ok()) co_return resumed.error();
  print_state(session, options.id, "running");
  co_return 0;
}

awaitable<Outcome> set_timeout(Session& session, const TimeoutOptions& options) {
  const auto set = co_await session.client.request("POST", sandbox_path(options.id, "/timeout"),
                                                   timeout_body(options.seconds));
  if (!set.ok()) co_return set.error();
  if (session.json) print_json("{\"timeout\":" + std::to_string(options.seconds) + "}");
  co_return 0;
}

void add_kill(CommandLine& line, CLI::App& group) {
  auto options = std::make_shared<KillOptions>();
  auto* command = group.add_subcommand("kill", "end sandboxes, with all that is in them");
  auto* ids = command->add_option("sandboxes", options->ids)->type_name(sandbox_type);
  command->add_flag("-a,--all", options->all, "all of them; asks first")->excludes(ids);
  command->add_flag("-y,--yes", options->yes, "do not ask");
  line.runs(command, options, kill);
}

void add_states(CommandLine& line, CLI::App& group) {
  auto paused = std::make_shared<OneSandbox>();
  auto* command = group.add_subcommand("pause", "freeze a sandbox, memory and disk, until it is resumed");
  add_sandbox(command, paused->id);
  line.runs(command, paused, pause);

  auto resumed = std::make_shared<ResumeOptions>();
  command =
      group.add_subcommand("resume", "let a paused sandbox run on; of one that runs, extend the timeout");
  add_sandbox(command, resumed->id);
  add_timeout(command, resumed->timeout, "how long it lives from now on, at least");
  line.runs(command, resumed, resume);

  auto timeout = std::make_shared<TimeoutOptions>();
  command = group.add_subcommand("timeout", "set how long a sandbox lives from now on");
  add_sandbox(command, timeout->id);
  command->add_option("seconds", timeout->seconds, "0: it ends now")
      ->required()
      ->type_name("SECONDS")
      ->check(CLI::Range(0, 86400));
  line.runs(command, timeout, set_timeout);
}

}  // namespace

void add_lifecycle_commands(CommandLine& line, CLI::App& group) {
  add_kill(line, group);
  add_states(line, group);
}

}  // namespace cube::cubectl
