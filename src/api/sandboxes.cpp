// The calls about sandboxes.
#include <algorithm>

#include "api/actions.hpp"
#include "api/list_query.hpp"
#include "api/sandbox_json.hpp"
#include "api/sandbox_requests.hpp"

namespace cube::api {
// Old SDKs join the sandbox's id and its clientID with a dash.
Result<std::string> sandbox_id_of(const Call& call) {
  const std::string& text = call.parameters.front();
  const std::string id = text.substr(0, text.find('-'));
  const bool valid = !id.empty() && std::ranges::count(text, '-') <= 1 && is_lowercase(id);
  if (valid) return id;
  return make_error(ErrorCode::invalid_argument, "invalid sandbox ID '" + text.substr(0, 100) + "'");
}

Answer sandbox_problem(const std::string& id, const Error& error) {
  if (error.code == ErrorCode::not_found)
    return problem(404, "sandbox '" + id.substr(0, 100) + "' not found");
  return problem_of(error);
}

namespace {

Answering create_sandbox(const Context& context, Call& call, Generation generation) {
  auto request = parse_create(call.body, generation);
  if (!request.ok()) co_return problem_of(request.error());
  const std::string reference = request->template_ref;
  auto created = co_await context.sandboxes.create(std::move(*request));
  if (created.ok()) co_return json_answer(201, sandbox_json(*created, context.settings.domain));
  if (created.error().code == ErrorCode::not_found) co_return template_not_found(context, reference);
  co_return create_problem_of(created.error());
}

/// A guest whose agent is silent as it was kept may come up if it is booted.
Answer resume_problem(const Context& context, const std::string& id, const Error& error) {
  const auto info = context.sandboxes.get(id);
  if (!info.ok() || !info->agent_silent) return sandbox_problem(id, error);
  return problem(409,
                 "the agent of sandbox '" + id +
                     "' does not answer; with \"memory\": false the sandbox is booted from its disk",
                 "sandbox_snapshot_guest_agent_unresponsive");
}

Answering connect_sandbox(const Context& context, Call& call, Generation generation) {
  auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto options = parse_connect(call.body, generation);
  if (!options.ok()) co_return problem_of(options.error());
  const auto connected = co_await context.sandboxes.connect(*id, *options);
  if (!connected.ok()) co_return resume_problem(context, *id, connected.error());
  co_return json_answer(connected->resumed ? 201 : 200,
                        sandbox_json(connected->info, context.settings.domain));
}

Answer page_answer(const Page& page) {
  JsonWriter json;
  json.begin_array();
  for (const node::SandboxInfo& info : page.sandboxes) write_listed_sandbox(json, info);
  json.end_array();
  Answer answer = json_answer(200, json.take());
  if (!page.next_token.empty()) answer.headers.add("X-Next-Token", page.next_token);
  return answer;
}

}  // namespace

Answering create_sandbox_v1(const Context& context, Call& call) {
  if (call.exchange.request().headers.get("Idempotency-Key"))
    co_return problem(501, "the Idempotency-Key header goes with POST /v2/sandboxes only; leave it out");
  co_return co_await create_sandbox(context, call, Generation::v1);
}

Answering create_sandbox_v2(const Context& context, Call& call) {
  const auto key = call.exchange.request().headers.get("Idempotency-Key");
  if (!key) co_return co_await create_sandbox(context, call, Generation::v2);
  auto begun = context.idempotency_keys->begin(*key, call.body, std::chrono::steady_clock::now());
  if (auto* answered = std::get_if<Answer>(&begun)) co_return std::move(*answered);
  auto& attempt = std::get<IdempotencyKeys::Attempt>(begun);
  auto answer = co_await create_sandbox(context, call, Generation::v2);
  if (answer->status == 201) attempt.keep(*answer, std::chrono::steady_clock::now());
  co_return answer;
}
Answering connect_sandbox_v1(const Context& context, Call& call) {
  return connect_sandbox(context, call, Generation::v1);
}
Answering connect_sandbox_v2(const Context& context, Call& call) {
  return connect_sandbox(context, call, Generation::v2);
}

Answering list_sandboxes_v1(const Context& context, Call& call) {
  const auto query = parse_first_list_query(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  co_return page_answer(select_page(context.sandboxes.list(), *query));
}

Answering list_sandboxes_v2(const Context& context, Call& call) {
  const auto query = parse_list_query(call.exchange.request().query());
  if (!query.ok()) co_return problem_of(query.error());
  const Page page = select_page(context.sandboxes.list(), *query);
  Answer answer = page_answer(page);
  if (query->running) answer.headers.add("X-Total-Running", std::to_string(page.total_running));
  co_return answer;
}

Answering get_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto info = context.sandboxes.get(*id);
  if (!info.ok()) co_return sandbox_problem(*id, info.error());
  co_return json_answer(200, sandbox_detail_json(*info, context.settings.domain));
}

Answering kill_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  auto killed = co_await context.sandboxes.kill(*id);
  if (!killed.ok()) co_return sandbox_problem(*id, killed.error());
  co_return no_content();
}

Answering set_sandbox_timeout(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto timeout = parse_timeout(call.body);
  if (!timeout.ok()) co_return problem_of(timeout.error());
  auto set = co_await context.sandboxes.set_timeout(*id, *timeout);
  if (!set.ok()) co_return sandbox_problem(*id, set.error());
  co_return no_content();
}

Answering refresh_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto duration = parse_refresh(call.body);
  if (!duration.ok()) co_return problem_of(duration.error());
  auto extended = co_await context.sandboxes.extend(*id, *duration);
  if (!extended.ok()) co_return sandbox_problem(*id, extended.error());
  co_return no_content();
}

Answering pause_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto options = parse_pause(call.body);
  if (!options.ok()) co_return problem_of(options.error());
  auto paused = co_await context.sandboxes.pause(*id, *options);
  if (paused.ok()) co_return no_content();
  // Its agent is silent and the sandbox runs on: asking again may help.
  const ErrorCode code = paused.error().code;
  if (code == ErrorCode::unavailable || code == ErrorCode::deadline_exceeded)
    co_return problem(503, paused.error().describe());
  co_return sandbox_problem(*id, paused.error());
}

Answering resume_sandbox(const Context& context, Call& call) {
  const auto id = sandbox_id_of(call);
  if (!id.ok()) co_return problem_of(id.error());
  const auto options = parse_resume(call.body);
  if (!options.ok()) co_return problem_of(options.error());
  const auto resumed = co_await context.sandboxes.resume(*id, *options);
  if (!resumed.ok()) co_return resume_problem(context, *id, resumed.error());
  co_return json_answer(201, sandbox_json(*resumed, context.settings.domain));
}

}  // namespace cube::api
