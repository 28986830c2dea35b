// The calls about sandboxes, lists and templates, and what all calls share.
#include "api/list_query.hpp"
#include "api/time_text.hpp"
#include "api_fixture.hpp"

using namespace cube;
using namespace cube::test;

TEST_CASE("create answers a Sandbox in both generations, each with its own default timeout") {
  Fixture fixture;
  const auto [path, timeout] =
      GENERATE(table<std::string, int>({{"/sandboxes", 15}, {"/v2/sandboxes", 300}}));
  const auto response = fixture.call("POST", path, R"({"templateID":"base","metadata":{},"envVars":{}})");
  CHECK(response.status == 201);
  CHECK(response.body == R"({"templateID":"ssssssssssssssssssss","sandboxID":"iaaaaaaaaaaaaaaaaaaaa",)"
                         R"("clientID":"6532622b","envdVersion":"0.5.7","alias":"base",)"
                         R"("envdAccessToken":"secret-token","domain":"cube.local"})");
  CHECK(header(response, "Access-Control-Allow-Origin") == "*");
  CHECK(fixture.sandboxes.last_create->timeout == std::chrono::seconds(timeout));
}

TEST_CASE("create passes on what was asked for") {
  Fixture fixture;
  fixture.create(R"({"templateID":"base","timeout":60,"metadata":{"a":"1"},"envVars":{"B":"=2"}})");
  CHECK(fixture.sandboxes.last_create->timeout == 60s);
  CHECK(fixture.sandboxes.last_create->metadata.at("a") == "1");
  CHECK(fixture.sandboxes.last_create->env_vars.at("B") == "=2");
}

TEST_CASE("create accepts fields that ask for nothing") {
  Fixture fixture;
  const std::string field = GENERATE(
      as<std::string>(), R"("timeout":null)", R"("autoPause":false)", R"("autoPause":null)",
      R"("autoPauseMemory":true)", R"("autoResume":{"enabled":false})", R"("network":{})",
      R"("network":null)",
      R"("network":{"allowOut":[],"denyOut":[],"allowPublicTraffic":true,"rules":{},"egressProxy":null})",
      R"("secure":true)", R"("secure":false)", R"("allow_internet_access":true)",
      R"("allow_internet_access":false)", R"("mcp":null)", R"("mcp":{"github":{"token":"x"}})",
      R"("iam":{"tokens":{}})", R"("volumeMounts":[])", R"("metadata":null)", R"("somethingNew":null)",
      R"("somethingNew":{"a":[]})");
  INFO(field);
  CHECK(fixture.call("POST", "/sandboxes", R"({"templateID":"base",)" + field + "}").status == 201);
}

TEST_CASE("create refuses what is not supported yet and names it") {
  Fixture fixture;
  const auto [field, name] = GENERATE(table<std::string, std::string>({
      {R"("network":{"rules":{"a.org":[{}]}})", "'network.rules.a.org'"},
      {R"("network":{"egressProxy":{"host":"x"}})", "'network.egressProxy.host'"},
      {R"("network":{"httpsPorts":[443]})", "'network.httpsPorts'"},
      {R"("iam":{"tokens":{"a":{"audience":"b"}}})", "'iam.tokens.a.audience'"},
      {R"("volumeMounts":[{"name":"a","path":"/a"}])", "'volumeMounts'"},
  }));
  const auto response = fixture.call("POST", "/v2/sandboxes", R"({"templateID":"base",)" + field + "}");
  CHECK(contains(problem(response, 501), name));
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("create refuses malformed bodies and says where") {
  Fixture fixture;
  const auto [body, text] = GENERATE(table<std::string, std::string>({
      {"", "needs a JSON body"},
      {"{", "not valid JSON"},
      {"\xff\xfe", "not valid JSON"},
      {"{\"templateID\":\"\xff\"}", "not valid JSON"},
      {std::string(100000, '['), "not valid JSON"},
      {"[]", "must be a JSON object"},
      {"null", "must be a JSON object"},
      {"{}", "'templateID'"},
      {R"({"templateID":null})", "'templateID'"},
      {R"({"templateID":7})", "'templateID' must be a string"},
      {R"({"templateID":"a\u0000b"})", "'templateID'"},
      {R"({"templateID":")" + std::string(1000, 'a') + "\"}", "'templateID'"},
      {R"({"templateID":"base","timeout":"60"})", "'timeout' must be an integer"},
      {R"({"templateID":"base","timeout":1.5})", "'timeout' must be an integer"},
      {R"({"templateID":"base","timeout":1e99})", "'timeout' must be an integer"},
      {R"({"templateID":"base","timeout":99999999999999999999})", "not valid JSON"},
      {R"({"templateID":"base","timeout":0})", "'timeout'"},
      {R"({"templateID":"base","timeout":-1})", "'timeout'"},
      {R"({"templateID":"base","timeout":86401})", "Timeout cannot be greater than 24 hours"},
      {R"({"templateID":"base","metadata":[]})", "'metadata'"},
      {R"({"templateID":"base","metadata":{"a":1}})", "'metadata.a' must be a string"},
      {R"({"templateID":"base","metadata":{"a":null}})", "'metadata.a' must be a string"},
      {R"({"templateID":"base","metadata":{"a":")" + std::string(70000, 'x') + "\"}}",
       "'metadata' must not exceed"},
      {R"({"templateID":"base","envVars":{"A=B":"c"}})", "'envVars'"},
      {R"({"templateID":"base","envVars":{"":"c"}})", "'envVars'"},
      {R"({"templateID":"base","envVars":{"A":"\u0000"}})", "'envVars.A'"},
      {R"({"templateID":"base","secure":"yes"})", "'secure' must be true or false"},
      {R"({"templateID":"base","autoPause":1})", "'autoPause' must be true or false"},
      {R"({"templateID":"base","network":[]})", "'network' must be an object"},
      {R"({"templateID":"base","volumeMounts":{}})", "'volumeMounts' must be an array"},
      {R"({"templateID":"base","unheardOf":1})", "'unheardOf' is unknown"},
  }));
  INFO(body.substr(0, 100));
  const auto response = fixture.call("POST", "/v2/sandboxes", body);
  CHECK(contains(problem(response, 400), text));
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("maps have a bounded number of entries") {
  Fixture fixture;
  std::string entries;
  for (int i = 0; i < 300; ++i) entries += (i ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  const auto response =
      fixture.call("POST", "/sandboxes", R"({"templateID":"base","metadata":{)" + entries + "}}");
  CHECK(contains(problem(response, 400), "256 entries"));
}

TEST_CASE("a body that comes too slowly is 408") {
  http::Limits limits;
  limits.body_timeout = 1s;
  Fixture fixture(default_settings(), limits);
  std::string response;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    RawClient client = co_await RawClient::connect(fixture.port);
    co_await client.send("POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key +
                         "\r\nContent-Length: 9\r\n\r\n{");
    response = co_await client.read_to_end();
  });
  CHECK(response.starts_with("HTTP/1.1 408 Request Timeout\r\n"));
  CHECK(response.ends_with(R"({"code":408,"message":"the body did not arrive in time"})"));
}

TEST_CASE("a body over 1 MiB is 413") {
  Fixture fixture;
  const auto response = fixture.call("POST", "/sandboxes", std::string((1 << 20) + 1, ' '));
  problem(response, 413);
}

TEST_CASE("create tells why there is no sandbox, and whether to try again") {
  Fixture fixture;
  CHECK(problem(fixture.call("POST", "/sandboxes", R"({"templateID":"nope"})"), 404) ==
        R"("template 'nope' not found")");
  CHECK(problem(fixture.call("POST", "/sandboxes", R"({"templateID":"base:v9"})"), 404) ==
        R"("tag 'v9' does not exist for template 'base'")");

  fixture.sandboxes.error = make_error(ErrorCode::resource_exhausted, "the host's memory is reserved");
  const auto full = fixture.call("POST", "/sandboxes", R"({"templateID":"base"})");
  CHECK(contains(problem(full, 503), "memory is reserved"));
  CHECK(at(full.body, "/error_code") == R"("sandbox_capacity_unavailable")");
  CHECK(header(full, "Should-Retry") == "false");

  for (const ErrorCode code : {ErrorCode::unavailable, ErrorCode::deadline_exceeded}) {
    fixture.sandboxes.error = make_error(code, "the guest does not answer");
    const auto failed = fixture.call("POST", "/sandboxes", R"({"templateID":"base"})");
    problem(failed, 500);
    CHECK(at(failed.body, "/error_code") == R"("sandbox_create_failed")");
  }
  fixture.sandboxes.error = make_error(ErrorCode::corrupt, "checksum", "/var/lib/secret-path");
  const auto corrupt = fixture.call("POST", "/sandboxes", R"({"templateID":"base"})");
  problem(corrupt, 500);
  CHECK_FALSE(contains(corrupt.body, "secret-path"));
}

TEST_CASE("an Idempotency-Key is refused rather than ignored where E2B has none") {
  Fixture fixture;
  http::Headers headers{{"X-API-Key", key}, {"Idempotency-Key", "a"}};
  problem(fixture.send("POST", "/sandboxes", R"({"templateID":"base"})", headers), 501);
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("a create that is sent again with its Idempotency-Key makes no second sandbox") {
  Fixture fixture;
  const std::string body = R"({"templateID":"base","metadata":{"a":"1"}})";
  const http::Headers first{{"X-API-Key", key}, {"Idempotency-Key", "key-1"}};
  const http::Headers second{{"X-API-Key", key}, {"Idempotency-Key", "key-2"}};
  const auto made = fixture.send("POST", "/v2/sandboxes", body, first);
  REQUIRE(made.status == 201);
  const auto again = fixture.send("POST", "/v2/sandboxes", body, first);
  CHECK(again.status == 201);
  CHECK(again.body == made.body);
  CHECK(header(again, "Content-Type") == "application/json; charset=utf-8");
  CHECK(fixture.sandboxes.infos.size() == 1);

  const auto other = fixture.send("POST", "/v2/sandboxes", R"({"templateID":"base"})", first);
  problem(other, 422);
  CHECK(at(other.body, "/error_code") == R"("idempotency_request_mismatch")");
  CHECK(fixture.sandboxes.infos.size() == 1);

  CHECK(fixture.send("POST", "/v2/sandboxes", body, second).body != made.body);
  CHECK(fixture.sandboxes.infos.size() == 2);
}

TEST_CASE("a create that failed may be tried again with the same Idempotency-Key") {
  Fixture fixture;
  const http::Headers headers{{"X-API-Key", key}, {"Idempotency-Key", "a"}};
  fixture.sandboxes.error = make_error(ErrorCode::resource_exhausted, "full");
  problem(fixture.send("POST", "/v2/sandboxes", R"({"templateID":"base"})", headers), 503);
  fixture.sandboxes.error.reset();
  CHECK(fixture.send("POST", "/v2/sandboxes", R"({"templateID":"base"})", headers).status == 201);
}

TEST_CASE("an Idempotency-Key has a shape") {
  Fixture fixture;
  for (const std::string& bad : {std::string("UPPER"), std::string("a b"), std::string(256, 'a')}) {
    const http::Headers headers{{"X-API-Key", key}, {"Idempotency-Key", bad}};
    CHECK(contains(problem(fixture.send("POST", "/v2/sandboxes", R"({"templateID":"base"})", headers), 400),
                   "Idempotency-Key"));
  }
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("connect is 200 for a running sandbox and 201 for one it resumed") {
  Fixture fixture;
  const std::string id = fixture.create();
  CHECK(fixture.call("POST", "/v2/sandboxes/" + id + "/connect").status == 200);
  CHECK(fixture.sandboxes.last_timeout == 300s);
  CHECK(fixture.call("POST", "/sandboxes/" + id + "/connect", R"({"timeout":77})").status == 200);
  CHECK(fixture.sandboxes.last_timeout == 77s);
  fixture.sandboxes.infos.front().state = node::SandboxState::paused;
  const auto resumed =
      fixture.call("POST", "/v2/sandboxes/" + id + "/connect", R"({"timeout":5,"memory":true})");
  CHECK(resumed.status == 201);
  CHECK(at(resumed.body, "/clientID") == R"("6532622b")");

  const std::string path = "/v2/sandboxes/" + id + "/connect";
  CHECK(fixture.sandboxes.last_with_memory == true);
  CHECK(fixture.call("POST", path, R"({"memory":false})").status == 201);
  CHECK(fixture.sandboxes.last_with_memory == false);
  problem(fixture.call("POST", path, R"({"timeout":-1})"), 400);
  problem(fixture.call("POST", path, R"({"timeout":86401})"), 400);
  problem(fixture.call("POST", path, "nonsense"), 400);
  problem(fixture.call("POST", "/v2/sandboxes/nonexistingsandbox/connect"), 404);
  fixture.sandboxes.error = make_error(ErrorCode::conflict, "the sandbox is being killed");
  problem(fixture.call("POST", path), 409);
}

TEST_CASE("a sandbox in detail") {
  Fixture fixture;
  const std::string id = fixture.create(R"({"templateID":"base","metadata":{"k\"":"v"}})");
  const auto response = fixture.call("GET", "/sandboxes/" + id);
  CHECK(response.status == 200);
  CHECK(at(response.body, "/sandboxID") == "\"" + id + "\"");
  CHECK(at(response.body, "/startedAt") == R"("2026-01-02T03:04:05.678Z")");
  CHECK(at(response.body, "/endAt") == R"("2026-01-02T03:09:05.678Z")");
  CHECK(at(response.body, "/state") == R"("running")");
  CHECK(at(response.body, "/cpuCount") == "2");
  CHECK(at(response.body, "/memoryMB") == "512");
  CHECK(at(response.body, "/diskSizeMB") == "1024");
  CHECK(at(response.body, "/metadata") == R"({"k\"":"v"})");
  CHECK(at(response.body, "/envdAccessToken") == R"("secret-token")");
  CHECK(at(response.body, "/lifecycle/onTimeout") == R"("kill")");
}

TEST_CASE("ids may carry a client id, and are checked") {
  Fixture fixture;
  const std::string id = fixture.create();
  CHECK(fixture.call("GET", "/sandboxes/" + id + "-6532622b").status == 200);
  CHECK(problem(fixture.call("GET", "/sandboxes/nonexistingsandbox"), 404) ==
        R"("sandbox 'nonexistingsandbox' not found")");
  for (const std::string bad : {"a-b-c", "UPPER", "a%2Fb", "-", "%00"})
    problem(fixture.call("GET", "/sandboxes/" + bad), 400);
}

TEST_CASE("kill is 204 once, then 404") {
  Fixture fixture;
  const std::string id = fixture.create();
  const auto killed = fixture.call("DELETE", "/sandboxes/" + id);
  CHECK(killed.status == 204);
  CHECK(killed.body.empty());
  problem(fixture.call("DELETE", "/sandboxes/" + id), 404);
}

TEST_CASE("timeout sets the deadline, also to now") {
  Fixture fixture;
  const std::string path = "/sandboxes/" + fixture.create() + "/timeout";
  const auto [body, seconds] = GENERATE(table<std::string, int>(
      {{R"({"timeout":120})", 120}, {R"({"timeout":0})", 0}, {R"({"timeout":-9223372036854775808})", 0}}));
  CHECK(fixture.call("POST", path, body).status == 204);
  CHECK(fixture.sandboxes.last_timeout == std::chrono::seconds(seconds));
}

TEST_CASE("timeout refuses what is no number of seconds") {
  Fixture fixture;
  const std::string path = "/sandboxes/" + fixture.create() + "/timeout";
  for (const std::string body :
       {"", "{}", R"({"timeout":null})", R"({"timeout":true})", R"({"timeout":86401})"})
    problem(fixture.call("POST", path, body), 400);
  problem(fixture.call("POST", "/sandboxes/unknown/timeout", R"({"timeout":1})"), 404);
}

TEST_CASE("refreshes extend by at least 15 seconds and at most an hour") {
  Fixture fixture;
  const std::string path = "/sandboxes/" + fixture.create() + "/refreshes";
  for (const auto& [body, duration] : std::map<std::string, std::chrono::seconds>{
           {"", 15s}, {"{}", 15s}, {R"({"duration":3})", 15s}, {R"({"duration":3600})", 3600s}}) {
    CHECK(fixture.call("POST", path, body).status == 204);
    CHECK(fixture.sandboxes.last_timeout == duration);
  }
  problem(fixture.call("POST", path, R"({"duration":3601})"), 400);
  problem(fixture.call("POST", path, R"({"duration":-1})"), 400);
}

TEST_CASE("lists page through, newest first or oldest first") {
  Fixture fixture;
  for (int i = 0; i < 5; ++i) {
    fixture.create();
    // Two of them start at the same nanosecond.
    fixture.sandboxes.infos.back().started_at += std::chrono::nanoseconds(i == 3 ? 2 : i);
  }
  const bool ascending = GENERATE(false, true);
  const std::string order = ascending ? "&order=asc" : "";
  std::vector<std::string> ids;
  std::string token;
  for (int pages = 1;; ++pages) {
    const auto page =
        fixture.call("GET", "/v2/sandboxes?limit=2" + order + (token.empty() ? "" : "&nextToken=" + token));
    REQUIRE(page.status == 200);
    CHECK(header(page, "X-Total-Running") == "5");
    for (const char* index : {"/0/sandboxID", "/1/sandboxID"})
      if (const std::string id = at(page.body, index); id != "(nothing)") ids.push_back(id.substr(20, 2));
    if (!page.headers.get("X-Next-Token")) {
      CHECK(pages == 3);
      break;
    }
    token = header(page, "X-Next-Token");
  }
  const std::vector<std::string> expected = ascending
                                                ? std::vector<std::string>{"aa", "ab", "ac", "ad", "ae"}
                                                : std::vector<std::string>{"ae", "ac", "ad", "ab", "aa"};
  CHECK(ids == expected);
}

TEST_CASE("lists filter by state, template and start") {
  Fixture fixture;
  fixture.create();
  fixture.create();
  fixture.sandboxes.infos[1].state = node::SandboxState::paused;
  fixture.sandboxes.infos[1].started_at += 1h;
  fixture.sandboxes.infos[1].template_id = "otherotherotherother";
  fixture.sandboxes.infos[1].template_name = "other";
  const auto [query, count] = GENERATE(table<std::string, std::size_t>({
      {"", 2},
      {"?state=running,paused", 2},
      {"?state=running%2Cpaused", 2},
      {"?state=running", 1},
      {"?state=paused", 1},
      {"?state=&template=", 2},
      {"?template=base", 1},
      {"?template=otherotherotherother", 1},
      {"?template=unknown", 0},
      {"?startedAfter=2026-01-02T03:04:05.678Z", 2},  // or at that moment
      {"?startedAfter=2026-01-02T03:04:05.679Z", 1},
      {"?startedAfter=2026-01-02T04:04:05.677%2B01:00", 2},
      {"?startedAfter=2030-01-01T00:00:00Z", 0},
  }));
  INFO(query);
  const auto response = fixture.call("GET", "/v2/sandboxes" + query);
  REQUIRE(response.status == 200);
  simdjson::dom::parser parser;
  CHECK(simdjson::dom::array(parser.parse(response.body)).size() == count);
  if (query == "?state=paused")
    CHECK(header(response, "X-Total-Running") == "(none)");
  else
    CHECK(header(response, "X-Total-Running") != "(none)");
}

TEST_CASE("the metadata filter is decoded three times, as SDKs encode it") {
  Fixture fixture;
  fixture.create(R"({"templateID":"base","metadata":{"a&":"b c","user":"x"}})");
  fixture.create(R"({"templateID":"base","metadata":{"user":"x"}})");
  const auto [filter, count] = GENERATE(table<std::string, std::size_t>({
      {"a%252526%3Db%252520c", 1},  // as seen from an SDK for {'a&': 'b c'}
      {"user%3Dx", 2},
      {"user=x", 2},
      {"user%3Dx%26a%252526%3Db%252520c", 1},
      {"user%3Dy", 0},
      {"unknown%3Dx", 0},
      {"", 2},
  }));
  INFO(filter);
  const std::string path = GENERATE("/sandboxes", "/v2/sandboxes");
  const auto response = fixture.call("GET", path + "?metadata=" + filter);
  REQUIRE(response.status == 200);
  simdjson::dom::parser parser;
  CHECK(simdjson::dom::array(parser.parse(response.body)).size() == count);
}

TEST_CASE("the first generation lists running sandboxes only, all at once") {
  Fixture fixture;
  for (int i = 0; i < 3; ++i) fixture.create();
  fixture.sandboxes.infos[1].state = node::SandboxState::paused;
  const auto response = fixture.call("GET", "/sandboxes?limit=1");
  simdjson::dom::parser parser;
  CHECK(simdjson::dom::array(parser.parse(response.body)).size() == 2);
  CHECK(at(response.body, "/0/envdAccessToken") == "(nothing)");
}

TEST_CASE("lists refuse what they do not understand") {
  Fixture fixture;
  const auto [query, name] = GENERATE(table<std::string, std::string>({
      {"limit=0", "limit"},
      {"limit=101", "limit"},
      {"limit=-1", "limit"},
      {"limit=1x", "limit"},
      {"limit=99999999999999999999999", "limit"},
      {"state=dead", "state"},
      {"state=running,", "(none)"},
      {"order=up", "order"},
      {"startedAfter=yesterday", "startedAfter"},
      {"startedAfter=2026-02-30T00:00:00Z", "startedAfter"},
      {"startedAfter=9999-01-01T00:00:00Z", "startedAfter"},
      {"template=base:default", "template"},
      {"metadata=novalue", "metadata"},
      {"metadata=a%3Db%3Dc", "metadata"},
      {"metadata=a%3Db%26%26", "metadata"},
      {"metadata=a%3D%2525zz", "metadata"},
      {"metadata=%zz", "query"},
      {"nextToken=!!", "nextToken"},
      {"nextToken=AAAA", "nextToken"},
      {"order=desc&nextToken=" + api::write_cursor({api::TimePoint{}, "iaaaaaaaaaaaaaaaaaaaa", true}),
       "nextToken"},
  }));
  INFO(query);
  const auto response = fixture.call("GET", "/v2/sandboxes?" + query);
  if (name == "(none)")
    CHECK(response.status == 200);
  else
    CHECK(contains(problem(response, 400), name));
}

TEST_CASE("templates as the CLI lists them") {
  Fixture fixture;
  for (const std::string path : {"/templates", "/v2/templates", "/templates?teamID=x"}) {
    const auto response = fixture.call("GET", path);
    CHECK(response.status == 200);
    CHECK(at(response.body, "/0/templateID") == R"("ssssssssssssssssssss")");
    CHECK(at(response.body, "/0/aliases") == R"(["base"])");
    CHECK(at(response.body, "/0/createdAt") == R"("2026-01-02T03:04:05.678Z")");
    CHECK(at(response.body, "/0/buildStatus") == R"("ready")");
    CHECK(at(response.body, "/0/buildID") == R"("73737373-7373-7373-7373-737373737373")");
  }
  const auto one = fixture.call("GET", "/templates/base");
  CHECK(at(one.body, "/builds/0/status") == R"("ready")");
  CHECK(at(fixture.call("GET", "/templates/aliases/base").body, "/templateID") ==
        R"("ssssssssssssssssssss")");
  CHECK(problem(fixture.call("GET", "/templates/aliases/nope"), 404) == R"("template 'nope' not found")");
}

TEST_CASE("templates page through, newest first") {
  Fixture fixture;
  for (const char* name : {"b", "c"}) {
    fixture.templates.infos.push_back(fixture.templates.infos.front());
    fixture.templates.infos.back().id = name;
    fixture.templates.infos.back().name = name;
  }
  fixture.templates.infos.back().created_at += 1h;
  std::string seen;
  std::string token;
  for (int pages = 0; pages < 4; ++pages) {
    const auto page =
        fixture.call("GET", "/v2/templates?limit=1" + (token.empty() ? "" : "&nextToken=" + token));
    REQUIRE(page.status == 200);
    seen += at(page.body, "/0/names/0");
    if (!page.headers.get("X-Next-Token")) break;
    token = header(page, "X-Next-Token");
  }
  CHECK(seen == R"("c""b""base")");
  CHECK(contains(problem(fixture.call("GET", "/v2/templates?limit=0"), 400), "limit"));
  CHECK(contains(problem(fixture.call("GET", "/v2/templates?nextToken=x"), 400), "nextToken"));
}

TEST_CASE("a template can stay private, and has its one tag") {
  Fixture fixture;
  const std::string path = GENERATE(as<std::string>(), "/templates/base", "/v2/templates/base");
  const auto kept = fixture.call("PATCH", path, R"({"public":false})");
  CHECK(kept.status == 200);
  CHECK(kept.body == R"({"names":["base"]})");
  CHECK(contains(problem(fixture.call("PATCH", path, R"({"public":true})"), 501), "public"));
  problem(fixture.call("PATCH", path, R"({"public":"yes"})"), 400);
  problem(fixture.call("PATCH", path, R"({"name":"x"})"), 400);
  problem(fixture.call("PATCH", "/v2/templates/nope", R"({"public":false})"), 404);
  const auto tags = fixture.call("GET", "/templates/base/tags");
  CHECK(at(tags.body, "/0/tag") == R"("default")");
  problem(fixture.call("GET", "/templates/nope/tags"), 404);
}

TEST_CASE("a template reference is one segment of the path, however it is encoded") {
  Fixture fixture;
  CHECK(fixture.call("GET", "/templates/base%3Adefault").status == 200);
  CHECK(problem(fixture.call("GET", "/templates/team%2Fname%3Atag"), 404) ==
        R"("template 'team/name:tag' not found")");
  problem(fixture.call("GET", "/templates/a%zz"), 400);
  CHECK(fixture.call("DELETE", "/templates/base%3Adefault").status == 204);
  problem(fixture.call("DELETE", "/templates/base"), 404);
}

TEST_CASE("building from an image streams its progress and ends with the template") {
  Fixture fixture;
  const auto response = fixture.call(
      "POST", "/templates/images",
      R"({"name":"web","image":"web-1.ext4","cpuCount":1,"memoryMB":256,"diskSizeMB":2048,"readyCmd":"true"})");
  CHECK(response.status == 200);
  CHECK(header(response, "Content-Type") == "application/x-ndjson");
  std::vector<std::string> lines;
  std::istringstream text(response.body);
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == R"({"progress":"copying the image"})");
  CHECK(lines[1] == R"({"progress":"booting \"it\""})");
  CHECK(at(lines[2], "/template/names/0") == R"("web")");
  CHECK(fixture.templates.last_build->rootfs_path == "/images/web-1.ext4");
  CHECK(fixture.templates.last_build->vcpu_count == 1);
  CHECK(fixture.templates.last_build->memory_mib == 256);
  CHECK(fixture.templates.last_build->disk_mib == 2048);
  CHECK(fixture.templates.last_build->ready_command == "true");
}

TEST_CASE("a build that fails says so in its last line") {
  Fixture fixture;
  fixture.templates.build_error = make_error(ErrorCode::not_found, "no such file", "web.ext4");
  const auto response = fixture.call("POST", "/templates/images", R"({"name":"web","image":"web.ext4"})");
  CHECK(response.status == 200);
  const std::string last = response.body.substr(response.body.rfind('\n', response.body.size() - 2) + 1);
  CHECK(at(last, "/error/code") == "404");
  CHECK(contains(at(last, "/error/message"), "web.ext4"));
}

TEST_CASE("an image is a bare file name, and sizes have bounds") {
  Fixture fixture;
  const auto [body, name] = GENERATE(table<std::string, std::string>({
      {R"({"name":"a","image":"../etc/passwd"})", "'image'"},
      {R"({"name":"a","image":"/etc/passwd"})", "'image'"},
      {R"({"name":"a","image":".."})", "'image'"},
      {R"({"name":"a","image":".hidden"})", "'image'"},
      {R"({"name":"a","image":""})", "'image'"},
      {R"({"name":"a","image":"a\u0000b"})", "'image'"},
      {R"({"name":"a"})", "'image'"},
      {R"({"image":"a"})", "'name'"},
      {R"({"name":"../a","image":"a"})", "'name'"},
      {R"({"name":"a","image":"a","cpuCount":0})", "'cpuCount'"},
      {R"({"name":"a","image":"a","cpuCount":33})", "'cpuCount'"},
      {R"({"name":"a","image":"a","memoryMB":64})", "'memoryMB'"},
      {R"({"name":"a","image":"a","memoryMB":1099511627776})", "'memoryMB'"},
      {R"({"name":"a","image":"a","diskSizeMB":-1})", "'diskSizeMB'"},
      {R"({"name":"a","image":"a","startCmd":"x"})", "'startCmd'"},
  }));
  INFO(body);
  CHECK(contains(problem(fixture.call("POST", "/templates/images", body), 400), name));
  CHECK_FALSE(fixture.templates.last_build);
}

TEST_CASE("without an image directory no template is built from one") {
  Fixture fixture({key, "", ""});
  problem(fixture.call("POST", "/templates/images", R"({"name":"a","image":"a"})"), 501);
}

TEST_CASE("the key is asked for everywhere but at /health") {
  Fixture fixture;
  const http::Headers none, wrong{{"X-API-Key", key.substr(1)}}, longer{{"X-API-Key", key + "0"}};
  const auto health = fixture.send("GET", "/health", "", none);
  CHECK(health.status == 200);
  CHECK(health.body == "Health check successful");
  for (const std::string path :
       {"/sandboxes", "/v2/sandboxes", "/templates", "/teams", "/sandboxes/x/metrics"}) {
    CHECK(contains(problem(fixture.send("GET", path, "", none), 401), "X-API-Key"));
    problem(fixture.send("GET", path, "", wrong), 401);
    problem(fixture.send("GET", path, "", longer), 401);
  }
  const http::Headers bearer{{"Authorization", "Bearer " + key}};
  problem(fixture.send("GET", "/sandboxes", "", bearer), 401);
  const auto teams = fixture.send("GET", "/teams", "", bearer);
  CHECK(teams.status == 200);
  CHECK(at(teams.body, "/0/apiKey") == "\"" + key + "\"");
  CHECK(at(teams.body, "/0/isDefault") == "true");
}

TEST_CASE("without a key set, none and any is taken") {
  Fixture fixture({"", "", ""});
  CHECK(fixture.send("GET", "/sandboxes", "", {}).status == 200);
  CHECK(fixture.call("GET", "/sandboxes").status == 200);
  CHECK(fixture.call("GET", "/teams").status == 200);
}

TEST_CASE("unknown paths are 404, known paths with another method 405, what is to come 501") {
  Fixture fixture;
  for (const std::string path :
       {"/", "/nothing", "/sandboxes/", "/sandboxes//timeout", "/v2/sandboxes/x", "/v9/sandboxes"})
    problem(fixture.call("GET", path), 404);
  const auto wrong = fixture.call("PUT", "/sandboxes");
  CHECK(contains(problem(wrong, 405), "PUT"));
  CHECK(header(wrong, "Allow") == "POST, GET, HEAD, OPTIONS");
  problem(fixture.call("DELETE", "/health"), 405);
  for (const std::string path : {"/v3/templates", "/templates/tags", "/volumes"})
    CHECK(contains(problem(fixture.call("POST", path), 501), "not supported"));
}

TEST_CASE("HEAD is GET without the body, OPTIONS is for browsers") {
  Fixture fixture;
  const auto head = fixture.call("HEAD", "/sandboxes");
  CHECK(head.status == 200);
  CHECK(head.body.empty());
  CHECK(header(head, "Content-Length") == "2");
  const auto preflight = fixture.send("OPTIONS", "/v2/sandboxes", "", {});
  CHECK(preflight.status == 204);
  CHECK(header(preflight, "Access-Control-Allow-Origin") == "*");
  CHECK(contains(header(preflight, "Access-Control-Allow-Methods"), "POST"));
}

TEST_CASE("dates survive the way to a cursor and back") {
  const api::TimePoint time(std::chrono::nanoseconds(1767323045678912345));
  CHECK(api::date_text(time) == "2026-01-02T03:04:05.678Z");
  CHECK(api::exact_date_text(time) == "2026-01-02T03:04:05.678912345Z");
  CHECK(api::parse_date(api::exact_date_text(time)) == time);
  CHECK(api::parse_date("2026-01-02T05:04:05.678912345+02:00") == time);
  for (const char* bad :
       {"", "2026", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z", "2026-13-02T03:04:05Z",
        "2026-01-02T24:04:05Z", "2026-01-02T03:04:05Zx", "-026-01-02T03:04:05Z", "2026-01-02T03:04:05+99:00"})
    CHECK_FALSE(api::parse_date(bad));
}
