// The calls about checkpoints, which E2B calls snapshots, and about forks.
#include "api/actions.hpp"
#include "api/list_query.hpp"
#include "api/sandbox_json.hpp"
#include "api/sandbox_requests.hpp"

namespace cube::api {
namespace {

/// SnapshotInfo. The id carries its tag, as E2B's do; a create takes it with the tag and without.
void write_snapshot(JsonWriter& json, const node::CheckpointInfo& info) {
  json.begin_object().key("snapshotID").value(info.id + ":default");
  json.key("names").begin_array();
  if (!info.name.empty()) json.value(info.name + ":default");
  json.end_array().end_object();
}

}  // namespace

Answering take_snapshot(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  auto request = parse_snapshot(call.body);
  if (!request.ok()) co_return problem_of(request.error());
  const auto taken =
      co_await context.sandboxes.checkpoint(*id, std::move(request->name), request->with_memory);
  if (!taken.ok()) co_return sandbox_problem(*id, taken.error());
  JsonWriter json;
  write_snapshot(json, *taken);
  co_return json_answer(201, json.take());
}

Answering list_snapshots(const Context& context, Call& call) {
  const auto query = parse_snapshot_query(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  const SnapshotPage page = select_page(context.sandboxes.checkpoints().list(), *query);
  JsonWriter json;
  json.begin_array();
  for (const node::CheckpointInfo& info : page.snapshots) write_snapshot(json, info);
  json.end_array();
  Answer answer = json_answer(200, json.take());
  if (!page.next_token.empty()) answer.headers.add("X-Next-Token", page.next_token);
  co_return answer;
}

Answering fork_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto request = parse_fork(call.body);
  if (!request.ok()) co_return problem_of(request.error());
  const auto forks = co_await context.sandboxes.fork(*id, request->count, request->timeout);
  if (!forks.ok()) co_return sandbox_problem(*id, forks.error());
  JsonWriter json;
  json.begin_array();
  for (const Result<node::SandboxInfo>& fork : *forks) {
    json.begin_object();
    if (fork.ok())
      json.key("sandbox").raw(sandbox_json(*fork, context.settings.domain));
    else
      json.key("error").raw(create_problem_of(fork.error()).body);
    json.end_object();
  }
  json.end_array();
  co_return json_answer(201, json.take());
}

Answering rollback_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto reference = parse_rollback(call.body);
  if (!reference.ok()) co_return problem_of(reference.error());
  const auto info = co_await context.sandboxes.rollback(*id, *reference);
  if (!info.ok()) co_return sandbox_problem(*id, info.error());
  co_return json_answer(200, sandbox_json(*info, context.settings.domain));
}

}  // namespace cube::api
