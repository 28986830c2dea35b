// The service itself: is it there, and whose is it.
#include "api/actions.hpp"

namespace cube::api {
namespace {

void write_pool(JsonWriter& json, const node::Sandboxes::Status::Pool& pool) {
  json.begin_object().key("waiting").value(pool.waiting).key("wanted").value(pool.wanted);
  json.key("hits").value(pool.hits).key("misses").value(pool.misses).end_object();
}

}  // namespace

Answering get_health(const Context&, Call&) {
  Answer answer{200, "Health check successful", {}};
  answer.headers.add("Content-Type", "text/plain; charset=utf-8");
  co_return answer;
}

// There are no teams here. E2B's CLI asks for them when it logs in, and keeps the key of the default one; old
// ones want that to look like a key even where none is asked for.
Answering list_teams(const Context& context, Call&) {
  const std::string& key = context.settings.api_key;
  JsonWriter json;
  json.begin_array().begin_object();
  json.key("teamID").value("00000000-0000-0000-0000-000000000000").key("name").value("default");
  json.key("apiKey").value(key.empty() ? "e2b_" + std::string(40, '0') : key).key("isDefault").value(true);
  json.end_object().end_array();
  co_return json_answer(200, json.take());
}

Answering get_status(const Context& context, Call&) {
  const node::Sandboxes::Status status = context.sandboxes.status();
  JsonWriter json;
  json.begin_object();
  json.key("sandboxes").begin_object();
  json.key("running").value(status.running).key("paused").value(status.paused).end_object();
  write_pool(json.key("warmPool"), status.warm);
  write_pool(json.key("shellPool"), status.shells);
  json.end_object();
  co_return json_answer(200, json.take());
}

}  // namespace cube::api
