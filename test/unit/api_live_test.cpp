// The calls that keep, stop and copy sandboxes: pause, resume, snapshots, forks, rollback, lifecycle.
#include "api/list_query.hpp"
#include "api_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

const std::string unknown = "nonexistingsandbox";

std::string path_of(const std::string& id, const std::string& call) {
  return "/sandboxes/" + id + "/" + call;
}

std::size_t size_of(const std::string& body) {
  simdjson::dom::parser parser;
  return simdjson::dom::array(parser.parse(body)).size();
}

}  // namespace

TEST_CASE("what happens at the deadline is asked for at create and shown in detail") {
  Fixture fixture;
  const auto [fields, pause, memory, resume] = GENERATE(table<std::string, bool, bool, bool>({
      {R"("timeout":60)", false, true, false},
      {R"("autoPause":true)", true, true, false},
      {R"("autoPause":true,"autoPauseMemory":true,"autoResume":{"enabled":true})", true, true, true},
      {R"("autoPause":true,"autoPauseMemory":false)", true, false, false},
      {R"("autoPauseMemory":false,"autoPause":true,"autoResume":{"enabled":false})", true, false, false},
      {R"("autoPause":null,"autoPauseMemory":null,"autoResume":null)", false, true, false},
      {R"("autoPause":false,"autoResume":{"enabled":true})", false, true, true},
      {R"("autoPause":true,"autoResume":{})", true, true, false},
  }));
  INFO(fields);
  const std::string id = fixture.create(R"({"templateID":"base",)" + fields + "}");
  CHECK(fixture.sandboxes.last_create->auto_pause == pause);
  CHECK(fixture.sandboxes.last_create->auto_pause_memory == memory);
  CHECK(fixture.sandboxes.last_create->auto_resume == resume);

  fixture.sandboxes.infos.back().auto_pause = pause;
  fixture.sandboxes.infos.back().auto_resume = resume;
  const auto detail = fixture.call("GET", "/sandboxes/" + id);
  CHECK(at(detail.body, "/lifecycle/onTimeout") == (pause ? R"("pause")" : R"("kill")"));
  CHECK(at(detail.body, "/lifecycle/autoResume") == (resume ? "true" : "false"));
}

TEST_CASE("lifecycle fields that contradict each other are refused, none is ignored") {
  Fixture fixture;
  const auto [fields, text] = GENERATE(table<std::string, std::string>({
      {R"("autoPauseMemory":false)", "'autoPauseMemory' false needs autoPause"},
      {R"("autoPauseMemory":false,"autoPause":false)", "'autoPauseMemory' false needs autoPause"},
      {R"("autoPause":true,"autoPauseMemory":false,"autoResume":{"enabled":true})", "autoResume"},
      {R"("autoPause":"yes")", "'autoPause' must be true or false"},
      {R"("autoPauseMemory":0)", "'autoPauseMemory' must be true or false"},
      {R"("autoResume":true)", "'autoResume' must be an object"},
      {R"("autoResume":{"enabled":1})", "'autoResume.enabled' must be true or false"},
      {R"("autoResume":{"timeout":5})", "'timeout' is unknown"},
  }));
  INFO(fields);
  const auto response = fixture.call("POST", "/v2/sandboxes", R"({"templateID":"base",)" + fields + "}");
  CHECK(contains(problem(response, 400), text));
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("pause is 204, and 409 when it is paused already") {
  Fixture fixture;
  const std::string id = fixture.create();
  const auto [body, memory, healthy] = GENERATE(table<std::string, bool, bool>({
      {"", true, false},
      {"{}", true, false},
      {R"({"memory":null,"requireHealthyGuest":null})", true, false},
      {R"({"memory":false})", false, false},
      {R"({"memory":true,"requireHealthyGuest":true})", true, true},
  }));
  const auto paused = fixture.call("POST", path_of(id, "pause"), body);
  CHECK(paused.status == 204);
  CHECK(paused.body.empty());
  CHECK(fixture.sandboxes.last_pause->with_memory == memory);
  CHECK(fixture.sandboxes.last_pause->require_healthy_guest == healthy);
  CHECK_FALSE(problem(fixture.call("POST", path_of(id, "pause")), 409).empty());

  const auto detail = fixture.call("GET", "/sandboxes/" + id);
  CHECK(at(detail.body, "/state") == R"("paused")");
  CHECK(at(detail.body, "/pauseMode") == (memory ? R"("full")" : R"("filesystem")"));
}

TEST_CASE("a pause that fails says whether the sandbox is there and whether to try again") {
  Fixture fixture;
  const std::string id = fixture.create();
  CHECK(problem(fixture.call("POST", path_of(unknown, "pause")), 404) ==
        R"("sandbox 'nonexistingsandbox' not found")");
  problem(fixture.call("POST", path_of("A", "pause")), 400);
  for (const std::string body :
       {"nonsense", "[]", R"({"memory":1})", R"({"requireHealthyGuest":"x"})", R"({"mode":"full"})"})
    problem(fixture.call("POST", path_of(id, "pause"), body), 400);
  CHECK(fixture.sandboxes.infos.front().state == node::SandboxState::running);

  // Its agent is silent: it runs on, and SDKs may send again.
  for (const ErrorCode code : {ErrorCode::unavailable, ErrorCode::deadline_exceeded}) {
    fixture.sandboxes.error = make_error(code, "the guest does not answer");
    const auto silent = fixture.call("POST", path_of(id, "pause"));
    CHECK(contains(problem(silent, 503), "does not answer"));
    CHECK(header(silent, "Should-Retry") == "(none)");
  }
  fixture.sandboxes.error = make_error(ErrorCode::resource_exhausted, "No space left on device");
  const auto full = fixture.call("POST", path_of(id, "pause"));
  problem(full, 503);
  CHECK(header(full, "Should-Retry") == "false");
}

TEST_CASE("resume is 201 with the sandbox, 409 when it runs") {
  Fixture fixture;
  const std::string id = fixture.create();
  problem(fixture.call("POST", path_of(id, "resume")), 409);
  problem(fixture.call("POST", path_of(unknown, "resume")), 404);
  for (const auto& [body, timeout] :
       std::map<std::string, std::chrono::seconds>{{"", 15s},
                                                   {"{}", 15s},
                                                   {R"({"timeout":77,"autoPause":true})", 77s},
                                                   {R"({"memory":true})", 15s}}) {
    REQUIRE(fixture.call("POST", path_of(id, "pause")).status == 204);
    const auto resumed = fixture.call("POST", path_of(id, "resume"), body);
    CHECK(resumed.status == 201);
    CHECK(at(resumed.body, "/sandboxID") == "\"" + id + "\"");
    CHECK(at(resumed.body, "/clientID") == R"("6532622b")");
    CHECK(at(resumed.body, "/envdAccessToken") == R"("secret-token")");
    CHECK(fixture.sandboxes.last_timeout == timeout);
  }
  for (const std::string body :
       {R"({"timeout":-1})", R"({"timeout":86401})", R"({"timeout":"5"})", "x", R"({"a":1})"})
    problem(fixture.call("POST", path_of(id, "resume"), body), 400);
  fixture.sandboxes.error = make_error(ErrorCode::resource_exhausted, "full");
  CHECK(at(fixture.call("POST", path_of(id, "resume")).body, "/error_code") ==
        R"("sandbox_capacity_unavailable")");
}

TEST_CASE("resuming without memory boots from the disk, in every generation") {
  Fixture fixture;
  const std::string id = fixture.create();
  const std::string path = GENERATE(as<std::string>(), "/sandboxes/{}/connect", "/v2/sandboxes/{}/connect",
                                    "/sandboxes/{}/resume");
  const std::string target = std::string(path).replace(path.find("{}"), 2, id);
  for (const auto& [body, memory] : std::map<std::string, bool>{
           {R"({"memory":false})", false}, {R"({"memory":true})", true}, {R"({"memory":null})", true}}) {
    REQUIRE(fixture.call("POST", path_of(id, "pause")).status == 204);
    CHECK(fixture.call("POST", target, body).status == 201);
    CHECK(fixture.sandboxes.last_with_memory == memory);
    fixture.sandboxes.infos.front().state = node::SandboxState::running;
  }
  problem(fixture.call("POST", target, R"({"memory":1})"), 400);
}

TEST_CASE("a sandbox whose agent is silent as it was kept says so, and how to get it back") {
  Fixture fixture;
  const std::string id = fixture.create();
  fixture.sandboxes.infos.front().state = node::SandboxState::paused;
  CHECK(at(fixture.call("GET", "/sandboxes/" + id).body, "/envdUnresponsiveAtPause") == "(nothing)");
  fixture.sandboxes.infos.front().agent_silent = true;
  CHECK(at(fixture.call("GET", "/sandboxes/" + id).body, "/envdUnresponsiveAtPause") == "true");
  CHECK(at(fixture.call("GET", "/v2/sandboxes").body, "/0/envdUnresponsiveAtPause") == "true");

  fixture.sandboxes.error = make_error(ErrorCode::deadline_exceeded, "the guest does not answer in time");
  for (const std::string call : {"connect", "resume"}) {
    const auto refused = fixture.call("POST", path_of(id, call));
    CHECK(contains(problem(refused, 409), "memory"));
    CHECK(at(refused.body, "/error_code") == R"("sandbox_snapshot_guest_agent_unresponsive")");
  }
}

TEST_CASE("a sandbox on its way between states is one that runs") {
  Fixture fixture;
  const std::string id = fixture.create();
  fixture.sandboxes.infos.back().state = GENERATE(node::SandboxState::pausing, node::SandboxState::resuming);
  CHECK(at(fixture.call("GET", "/sandboxes/" + id).body, "/state") == R"("running")");
  CHECK(at(fixture.call("GET", "/sandboxes/" + id).body, "/pauseMode") == "(nothing)");
  CHECK(size_of(fixture.call("GET", "/v2/sandboxes?state=running").body) == 1);
  CHECK(size_of(fixture.call("GET", "/v2/sandboxes?state=paused").body) == 0);
}

TEST_CASE("a snapshot's id and name carry their tag") {
  Fixture fixture;
  const std::string id = fixture.create();
  const auto unnamed = fixture.call("POST", path_of(id, "snapshots"));
  CHECK(unnamed.status == 201);
  CHECK(unnamed.body == R"({"snapshotID":"ccccccccccccccccccca:default","names":[]})");
  CHECK(fixture.sandboxes.last_with_memory == true);
  for (const std::string name : {"good", "good:default", "good:latest"}) {
    const auto named =
        fixture.call("POST", path_of(id, "snapshots"), R"({"memory":false,"name":")" + name + "\"}");
    CHECK(named.status == 201);
    CHECK(at(named.body, "/names") == R"(["good:default"])");
    CHECK(fixture.sandboxes.last_with_memory == false);
  }
}

TEST_CASE("a snapshot is refused with what was wrong") {
  Fixture fixture;
  const std::string id = fixture.create();
  for (const std::string body :
       {R"({"name":"../a"})", R"({"name":"A"})", R"({"name":"a:v1"})", R"({"name":":default"})",
        R"({"name":"a:default:default"})", R"({"name":7})", R"({"memory":"no"})", R"({"tag":"x"})", "[]"}) {
    INFO(body);
    problem(fixture.call("POST", path_of(id, "snapshots"), body), 400);
  }
  problem(fixture.call("POST", path_of(id, "snapshots"), R"({"name":")" + std::string(129, 'a') + "\"}"),
          400);
  CHECK(problem(fixture.call("POST", path_of(unknown, "snapshots")), 404) ==
        R"("sandbox 'nonexistingsandbox' not found")");
  CHECK(fixture.sandboxes.kept.infos.empty());
  fixture.sandboxes.error = make_error(ErrorCode::conflict, "a template has this name", "base");
  problem(fixture.call("POST", path_of(id, "snapshots"), R"({"name":"base"})"), 409);
}

TEST_CASE("snapshots page through, newest first, and filter by sandbox and name") {
  Fixture fixture;
  const std::string id = fixture.create(), other = fixture.create();
  for (int i = 0; i < 5; ++i) fixture.call("POST", path_of(id, "snapshots"));
  fixture.call("POST", path_of(other, "snapshots"), R"({"name":"good"})");
  std::vector<std::string> ids;
  std::string token;
  int pages = 0;
  do {
    const auto page = fixture.call(
        "GET", "/snapshots?limit=2&sandboxID=" + id + (token.empty() ? "" : "&nextToken=" + token));
    REQUIRE(page.status == 200);
    for (const char* index : {"/0/snapshotID", "/1/snapshotID"})
      if (const std::string found = at(page.body, index); found != "(nothing)")
        ids.push_back(found.substr(20, 1));
    token = std::string(page.headers.get("X-Next-Token").value_or(""));
    REQUIRE(++pages <= 3);
  } while (!token.empty());
  CHECK(pages == 3);
  CHECK(ids == std::vector<std::string>{"e", "c", "d", "a", "b"});  // by twos at the same time, then by id

  const auto [query, count] = GENERATE_COPY(table<std::string, std::size_t>({
      {"", 6},
      {"?limit=100&sandboxID=&name=", 6},
      {"?sandboxID=" + other, 1},
      {"?sandboxID=" + id + "-6532622b", 5},
      {"?sandboxID=unknown", 0},
      {"?name=good", 1},
      {"?name=good%3Adefault", 1},
      {"?name=ccccccccccccccccccca", 1},
      {"?name=nope", 0},
      {"?name=good&sandboxID=" + id, 0},
  }));
  INFO(query);
  const auto response = fixture.call("GET", "/snapshots" + query);
  CHECK(size_of(response.body) == count);
  CHECK(header(response, "X-Next-Token") == "(none)");
}

TEST_CASE("a list of snapshots refuses what it does not understand") {
  Fixture fixture;
  for (const std::string query :
       {"limit=0", "limit=101", "limit=x", "nextToken=!!", "nextToken=AAAA", "name=%zz"}) {
    INFO(query);
    problem(fixture.call("GET", "/snapshots?" + query), 400);
  }
  CHECK(fixture.call("GET", "/snapshots").body == "[]");
}

TEST_CASE("a fork answers each of its outcomes on its own") {
  Fixture fixture;
  const std::string id = fixture.create();
  fixture.sandboxes.fails_at_fork = 1;
  const auto forked = fixture.call("POST", path_of(id, "fork"), R"({"count":3,"timeout":60})");
  CHECK(forked.status == 201);
  CHECK(size_of(forked.body) == 3);
  CHECK(at(forked.body, "/0/sandbox/sandboxID") == R"("f0")");
  CHECK(at(forked.body, "/0/sandbox/domain") == R"("cube.local")");
  CHECK(at(forked.body, "/0/error") == "(nothing)");
  CHECK(at(forked.body, "/1/error/code") == "500");
  CHECK(at(forked.body, "/1/error/error_code") == R"("sandbox_create_failed")");
  CHECK(at(forked.body, "/1/sandbox") == "(nothing)");
  CHECK(at(forked.body, "/2/sandbox/sandboxID") == R"("f2")");
  CHECK(fixture.sandboxes.last_timeout == 60s);

  const auto one = fixture.call("POST", path_of(id, "fork"));
  CHECK(size_of(one.body) == 1);
  CHECK(fixture.sandboxes.last_timeout == 300s);
}

TEST_CASE("a fork refuses what it cannot count") {
  Fixture fixture;
  const std::string id = fixture.create();
  for (const std::string body :
       {R"({"count":0})", R"({"count":-1})", R"({"count":101})", R"({"count":1.5})", R"({"count":"2"})",
        R"({"timeout":0})", R"({"timeout":-1})", R"({"timeout":86401})", R"({"name":"x"})", "x"}) {
    INFO(body);
    problem(fixture.call("POST", path_of(id, "fork"), body), 400);
  }
  CHECK_FALSE(fixture.sandboxes.last_timeout);
  problem(fixture.call("POST", path_of(unknown, "fork")), 404);
  fixture.sandboxes.error = make_error(ErrorCode::conflict, "it is paused");
  problem(fixture.call("POST", path_of(id, "fork")), 409);
}

TEST_CASE("a rollback answers the sandbox as it is now") {
  Fixture fixture;
  const std::string id = fixture.create();
  fixture.call("POST", path_of(id, "snapshots"), R"({"name":"good"})");
  for (const std::string reference : {"good", "good:default", "ccccccccccccccccccca:default"}) {
    const auto back = fixture.call("POST", path_of(id, "rollback"), R"({"snapshotID":")" + reference + "\"}");
    CHECK(back.status == 200);
    CHECK(at(back.body, "/sandboxID") == "\"" + id + "\"");
  }
  for (const std::string body :
       {"", "{}", R"({"snapshotID":""})", R"({"snapshotID":1})", R"({"snapshotID":"nope"})",
        R"({"snapshotID":"good","memory":false,"x":1})"}) {
    INFO(body);
    problem(fixture.call("POST", path_of(id, "rollback"), body), 400);
  }
  problem(fixture.call("POST", path_of(unknown, "rollback"), R"({"snapshotID":"good"})"), 404);
  fixture.sandboxes.error = make_error(ErrorCode::corrupt, "checksum", "/var/lib/secret-path");
  const auto damaged = fixture.call("POST", path_of(id, "rollback"), R"({"snapshotID":"good"})");
  problem(damaged, 500);
  CHECK(at(damaged.body, "/error_code") == R"("internal_server_error")");
  CHECK_FALSE(contains(damaged.body, "secret-path"));
}

TEST_CASE("snapshots are looked up and deleted as templates, by every name they have") {
  Fixture fixture;
  const std::string id = fixture.create();
  fixture.call("POST", path_of(id, "snapshots"), R"({"name":"good"})");
  for (const std::string reference : {"good", "ccccccccccccccccccca", "ccccccccccccccccccca%3Adefault"}) {
    const auto found = fixture.call("GET", "/templates/aliases/" + reference);
    CHECK(found.status == 200);
    CHECK(at(found.body, "/templateID") == R"("ccccccccccccccccccca")");
  }
  const std::string reference = GENERATE("good", "good%3Adefault", "ccccccccccccccccccca%3Adefault");
  CHECK(fixture.call("DELETE", "/templates/" + reference).status == 204);
  CHECK(fixture.sandboxes.kept.infos.empty());
  CHECK(fixture.templates.infos.size() == 1);
  problem(fixture.call("DELETE", "/templates/" + reference), 404);
  problem(fixture.call("GET", "/templates/aliases/" + reference), 404);
}

TEST_CASE("a snapshot that cannot be deleted is not looked for among the templates") {
  Fixture fixture;
  fixture.sandboxes.kept.error = make_error(ErrorCode::internal, "cannot delete");
  problem(fixture.call("DELETE", "/templates/base"), 500);
  CHECK(fixture.templates.infos.size() == 1);
}

TEST_CASE("the status tells sandboxes by state and how the pools do") {
  Fixture fixture;
  fixture.sandboxes.current = {3, 2, {8, 9, 100, 7}, {5, 6, 40, 4}};
  const auto status = fixture.call("GET", "/status");
  CHECK(status.status == 200);
  CHECK(at(status.body, "/sandboxes/running") == "3");
  CHECK(at(status.body, "/sandboxes/paused") == "2");
  CHECK(at(status.body, "/warmPool/waiting") == "8");
  CHECK(at(status.body, "/warmPool/wanted") == "9");
  CHECK(at(status.body, "/warmPool/hits") == "100");
  CHECK(at(status.body, "/shellPool/misses") == "4");
}
