#include "sandbox_options.hpp"

#include "human.hpp"

namespace cube::cubectl {

std::string sandbox_path(const std::string& id, const std::string& rest) {
  return "/sandboxes/" + url_encode(id) + rest;
}

std::string timeout_body(std::int64_t seconds) { return "{\"timeout\":" + std::to_string(seconds) + "}"; }

void print_state(const Session& session, const std::string& id, std::string_view state) {
  if (!session.json) return;
  JsonWriter json;
  json.begin_object().key("sandboxID").value(id).key("state").value(state).end_object();
  print_json(json.text());
}

Outcome print_member(const Session& session, const http::Response& answer, std::string_view member) {
  const auto document = JsonDocument::parse(answer.body);
  if (!document.ok()) return document.error();
  if (session.json)
    print_json(document->root());
  else
    print_json(printable(json_string(document->root(), member)));
  return 0;
}

CLI::Option* add_sandbox(CLI::App* command, std::string& id) {
  return command->add_option("sandbox", id)->required()->type_name(sandbox_type);
}

CLI::Option* add_timeout(CLI::App* command, std::int64_t& seconds, const std::string& description) {
  return command->add_option("--timeout", seconds, description)
      ->type_name("SECONDS")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
}

}  // namespace cube::cubectl
