// GET /openapi.json agrees with the table of routes and with what the handlers answer.
#include <set>

#include "api/openapi.hpp"
#include "api_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

using Element = simdjson::dom::element;

/// What of a value does not agree with its schema; empty if it all does.
class Validator {
 public:
  explicit Validator(const std::string& document) : document_(parser_.parse(document)) {}

  std::string problem(Element value, Element schema, const std::string& where = "") const {
    std::string_view reference;
    if (schema["$ref"].get(reference) == simdjson::SUCCESS)
      return problem(value, document_.at_pointer(std::string(reference.substr(1))), where);
    bool nullable = false;
    if (schema["nullable"].get(nullable) == simdjson::SUCCESS)
      return value.is_null() ? "" : problem(value, schema.at_pointer("/allOf/0"), where);
    const std::string_view type = schema["type"];
    if (type == "object") return object_problem(value, schema, where);
    if (type == "array") return array_problem(value, schema, where);
    if (type == "string") return string_problem(value, schema, where);
    const bool fits = type == "integer"  ? value.is_int64() || value.is_uint64()
                      : type == "number" ? value.is_number()
                                         : type == "boolean" && value.is_bool();
    return fits ? "" : where + " is no " + std::string(type);
  }

  /// Of an operation's answer with that status.
  std::string problem(const std::string& path, const std::string& method, const http::Response& response) {
    Element schema;
    const std::string status = std::to_string(response.status);
    auto answer = document_["paths"][path][method]["responses"][status];
    std::string_view reference;
    if (answer["$ref"].get(reference) == simdjson::SUCCESS)
      answer = document_.at_pointer(std::string(reference.substr(1)));
    if (answer["content"]["application/json"]["schema"].get(schema))
      return method + " " + path + " has no documented body for " + status;
    return problem(values_.parse(response.body), schema);
  }

  Element document() const { return document_; }

 private:
  std::string object_problem(Element value, Element schema, const std::string& where) const {
    simdjson::dom::object object, properties;
    simdjson::dom::array required;
    if (value.get(object)) return where + " is no object";
    if (schema["required"].get(required) == simdjson::SUCCESS)
      for (const auto name : required)
        if (object.at_key(std::string_view(name)).error())
          return where + " lacks " + std::string(std::string_view(name));
    Element others;
    const bool map = schema["additionalProperties"].get(others) == simdjson::SUCCESS;
    const bool documented = schema["properties"].get(properties) == simdjson::SUCCESS;
    for (const auto& [name, member] : object) {
      Element expected;
      const std::string place = where + "/" + std::string(name);
      if (documented && properties.at_key(name).get(expected)) return place + " is not documented";
      if (!documented && !map) continue;
      if (auto found = problem(member, map ? others : expected, place); !found.empty()) return found;
    }
    return "";
  }

  std::string array_problem(Element value, Element schema, const std::string& where) const {
    simdjson::dom::array array;
    if (value.get(array)) return where + " is no array";
    for (const auto item : array)
      if (auto found = problem(item, schema["items"], where + "[]"); !found.empty()) return found;
    return "";
  }

  std::string string_problem(Element value, Element schema, const std::string& where) const {
    simdjson::dom::array words;
    std::string_view text, format;
    if (value.get(text)) return where + " is no string";
    if (schema["enum"].get(words) == simdjson::SUCCESS) {
      bool found = false;
      for (const auto word : words) found = found || std::string_view(word) == text;
      if (!found) return where + " is none of its words: " + std::string(text);
    }
    if (schema["format"].get(format) == simdjson::SUCCESS && format == "uuid" && text.size() != 36)
      return where + " is no UUID";
    return "";
  }

  simdjson::dom::parser parser_, values_;
  Element document_;
};

std::string document() { return api::openapi_document(api::all_routes()); }

void collect_references(Element element, std::set<std::string>& references) {
  simdjson::dom::object object;
  simdjson::dom::array array;
  if (element.get(object) == simdjson::SUCCESS)
    for (const auto& [name, member] : object) {
      if (name == "$ref") references.insert(std::string(std::string_view(member)).substr(1));
      collect_references(member, references);
    }
  if (element.get(array) == simdjson::SUCCESS)
    for (const auto item : array) collect_references(item, references);
}

}  // namespace

TEST_CASE("the document is there for everybody, browsers included") {
  Fixture fixture;
  const auto response = fixture.send("GET", "/openapi.json", "", {});
  CHECK(response.status == 200);
  CHECK(header(response, "Access-Control-Allow-Origin") == "*");
  CHECK(header(response, "Content-Type") == "application/json; charset=utf-8");
  CHECK(at(response.body, "/openapi") == R"("3.0.3")");
  CHECK(at(response.body, "/paths/~1v2~1sandboxes/post/requestBody/content/application~1json/schema") ==
        R"({"$ref":"#/components/schemas/NewSandbox"})");
}

TEST_CASE("every route that does something is documented, and nothing else") {
  std::set<std::string> implemented, documented;
  for (const api::Route& route : api::all_routes()) {
    if (route.action == nullptr) continue;
    std::string method(route.method);
    std::ranges::transform(method, method.begin(), [](unsigned char c) { return std::tolower(c); });
    implemented.insert(method + " " + api::documented_path(route.pattern));
  }
  const std::string text = document();
  simdjson::dom::parser parser;
  const simdjson::dom::object paths = parser.parse(text)["paths"];
  for (const auto& [path, operations] : paths)
    for (const auto& [method, operation] : simdjson::dom::object(operations))
      CHECK(documented.insert(std::string(method) + " " + std::string(path)).second);
  CHECK(documented == implemented);
}

TEST_CASE("every entry of the tables is of use: it has a route, a schema is referred to") {
  for (const api::Operation& operation : api::documented_operations()) {
    INFO(operation.method << " " << operation.pattern);
    CHECK(std::ranges::any_of(api::all_routes(), [&](const api::Route& route) {
      return route.method == operation.method && route.pattern == operation.pattern;
    }));
  }
  const std::string text = document();
  simdjson::dom::parser parser;
  const Element root = parser.parse(text);
  std::set<std::string> references;
  collect_references(root, references);
  for (const std::string& reference : references) {
    INFO(reference);
    CHECK_FALSE(root.at_pointer(reference).error());
  }
  for (const api::Schema& schema : api::documented_schemas()) {
    INFO(schema.name);
    CHECK(references.contains("/components/schemas/" + std::string(schema.name)));
  }
}

TEST_CASE("a path parameter is named after what it is of") {
  CHECK(api::documented_path("/v2/sandboxes/{}/logs") == "/v2/sandboxes/{sandboxID}/logs");
  CHECK(api::documented_path("/templates/{}/builds/{}") == "/templates/{templateID}/builds/{buildID}");
  CHECK(api::documented_path("/health") == "/health");
}

TEST_CASE("what the handlers answer is what the document says") {
  Fixture fixture;
  Validator validator(document());
  const std::string id = fixture.create(R"({"templateID":"base","metadata":{"a":"b"}})");
  node::Metric metric;
  metric.at = node::Clock::now();
  fixture.sandboxes.samples[id].push_back(metric);
  node::LogEntry entry;
  entry.at = metric.at;
  entry.fields = {{"pid", "1"}};
  fixture.sandboxes.entries = {entry};
  fixture.sandboxes.fails_at_fork = 1;

  struct Sample {
    std::string method, path, target, body;
    int status;
  };
  const std::string sandbox = "/sandboxes/{sandboxID}", at_id = "/sandboxes/" + id;
  REQUIRE(fixture.call("POST", at_id + "/pause").status == 204);
  const std::vector<Sample> samples = {
      {"POST", sandbox + "/resume", at_id + "/resume", "", 201},
      {"GET", "/teams", "/teams", "", 200},
      {"GET", "/status", "/status", "", 200},
      {"GET", "/openapi.json", "/openapi.json", "", 200},
      {"POST", "/sandboxes", "/sandboxes", R"({"templateID":"base"})", 201},
      {"POST", "/v2/sandboxes", "/v2/sandboxes", R"({"templateID":"base"})", 201},
      {"POST", "/v2/sandboxes", "/v2/sandboxes", R"({"templateID":"nope"})", 404},
      {"POST", "/v2/sandboxes", "/v2/sandboxes", "{}", 400},
      {"GET", "/sandboxes", "/sandboxes", "", 200},
      {"GET", "/v2/sandboxes", "/v2/sandboxes", "", 200},
      {"GET", "/sandboxes/metrics", "/sandboxes/metrics?sandbox_ids=" + id, "", 200},
      {"GET", sandbox, at_id, "", 200},
      {"GET", sandbox, "/sandboxes/nobody", "", 404},
      {"POST", sandbox + "/connect", at_id + "/connect", "", 200},
      {"POST", "/v2" + sandbox + "/connect", "/v2" + at_id + "/connect", "", 200},
      {"POST", sandbox + "/resume", at_id + "/resume", "", 409},
      {"POST", sandbox + "/fork", at_id + "/fork", R"({"count":3})", 201},
      {"POST", sandbox + "/snapshots", at_id + "/snapshots", R"({"name":"kept"})", 201},
      {"POST", sandbox + "/rollback", at_id + "/rollback", R"({"snapshotID":"kept"})", 200},
      {"GET", sandbox + "/metrics", at_id + "/metrics", "", 200},
      {"GET", sandbox + "/logs", at_id + "/logs", "", 200},
      {"GET", "/v2" + sandbox + "/logs", "/v2" + at_id + "/logs", "", 200},
      {"GET", "/snapshots", "/snapshots", "", 200},
      {"GET", "/templates", "/templates", "", 200},
      {"GET", "/v2/templates", "/v2/templates", "", 200},
      {"GET", "/templates/{templateID}", "/templates/base", "", 200},
      {"GET", "/templates/{templateID}", "/templates/nope", "", 404},
      {"PATCH", "/templates/{templateID}", "/templates/base", R"({"public":false})", 200},
      {"PATCH", "/v2/templates/{templateID}", "/v2/templates/base", R"({"public":false})", 200},
      {"PATCH", "/v2/templates/{templateID}", "/v2/templates/base", R"({"public":true})", 501},
      {"GET", "/templates/aliases/{alias}", "/templates/aliases/base", "", 200},
      {"GET", "/templates/{templateID}/tags", "/templates/base/tags", "", 200},
  };
  std::set<std::string> seen;
  for (const Sample& sample : samples) {
    INFO(sample.method << " " << sample.target);
    const auto response = fixture.call(sample.method, sample.target, sample.body);
    REQUIRE(response.status == sample.status);
    std::string method = sample.method;
    std::ranges::transform(method, method.begin(), [](unsigned char c) { return std::tolower(c); });
    CHECK(validator.problem(sample.path, method, response) == "");
    if (sample.status < 300) seen.insert(method + " " + sample.path);
  }
  REQUIRE(fixture.call("POST", at_id + "/pause").status == 204);
  fixture.sandboxes.infos.front().agent_silent = true;
  CHECK(validator.problem(sandbox, "get", fixture.call("GET", at_id)) == "");
  CHECK(validator.problem("/v2/sandboxes", "get", fixture.call("GET", "/v2/sandboxes")) == "");

  // No answer with a JSON body was left out.
  const simdjson::dom::object paths = validator.document()["paths"];
  for (const auto& [path, operations] : paths)
    for (const auto& [method, operation] : simdjson::dom::object(operations))
      for (const auto& [status, answer] : simdjson::dom::object(operation["responses"])) {
        if (!status.starts_with('2') || answer["content"]["application/json"].error()) continue;
        INFO(method << " " << path);
        CHECK(seen.contains(std::string(method) + " " + std::string(path)));
      }
}

TEST_CASE("the validator of these tests sees what is wrong") {
  Validator validator(document());
  const auto found = [&](const std::string& body) {
    return validator.problem("/sandboxes/{sandboxID}/snapshots", "post", {201, {}, body});
  };
  CHECK(found(R"({"snapshotID":"a","names":["b"]})") == "");
  CHECK(found(R"({"names":[]})") == " lacks snapshotID");
  CHECK(found(R"({"snapshotID":"a","names":[1]})") == "/names[] is no string");
  CHECK(found(R"({"snapshotID":"a","names":[],"x":1})") == "/x is not documented");
}
