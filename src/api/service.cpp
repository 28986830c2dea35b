// The service itself: is it there, and whose is it.
#include "api/actions.hpp"

namespace cube::api {

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
  json.key("warmPool").begin_object().key("waiting").value(status.warm);
  json.key("hits").value(status.warm_hits).key("misses").value(status.warm_misses).end_object();
  json.key("shellPool").begin_object().key("waiting").value(status.shells);
  json.key("hits").value(status.shell_hits).key("misses").value(status.shell_misses).end_object();
  json.end_object();
  co_return json_answer(200, json.take());
}

}  // namespace cube::api
