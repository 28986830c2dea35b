// What a create and PUT /sandboxes/{id}/network say about a sandbox's network.
#include "api/network_request.hpp"

#include "api_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

std::string create_with(const std::string& network) {
  return R"({"templateID":"base","network":)" + network + "}";
}

}  // namespace

TEST_CASE("a create without public traffic gets a traffic access token, and says so again later") {
  Fixture fixture;
  const auto created = fixture.call("POST", "/v2/sandboxes", create_with(R"({"allowPublicTraffic":false})"));
  REQUIRE(created.status == 201);
  CHECK(at(created.body, "/trafficAccessToken") == "\"traffic-token\"");
  CHECK_FALSE(fixture.sandboxes.last_create->network.allow_public_traffic);
  const std::string path = "/sandboxes/" + fixture.sandboxes.infos.back().id;
  CHECK(at(fixture.call("POST", "/v2" + path + "/connect").body, "/trafficAccessToken") ==
        "\"traffic-token\"");
  CHECK(fixture.call("POST", path + "/pause").status == 204);
  CHECK(at(fixture.call("POST", path + "/resume").body, "/trafficAccessToken") == "\"traffic-token\"");
  const auto details = fixture.call("GET", path);
  CHECK(at(details.body, "/network/allowPublicTraffic") == "false");
  CHECK_FALSE(contains(details.body, "traffic-token"));
  CHECK_FALSE(contains(fixture.call("GET", "/v2/sandboxes").body, "traffic-token"));
}

TEST_CASE("public traffic is allowed unless that is said otherwise") {
  Fixture fixture;
  for (const std::string network :
       {"null", "{}", R"({"allowPublicTraffic":null})", R"({"allowPublicTraffic":true})"}) {
    const auto created = fixture.call("POST", "/sandboxes", create_with(network));
    REQUIRE(created.status == 201);
    CHECK_FALSE(contains(created.body, "trafficAccessToken"));
    CHECK(fixture.sandboxes.last_create->network.allow_public_traffic);
  }
}

TEST_CASE("what is denied and how the Host is masked comes back in the details") {
  Fixture fixture;
  const auto created = fixture.call(
      "POST", "/v2/sandboxes",
      create_with(
          R"({"denyOut":["8.8.8.8","10.0.0.0/8","2001:db8::/32"],"maskRequestHost":"app.test:${PORT}",)"
          R"("dnsServers":[]})"));
  REQUIRE(created.status == 201);
  const auto details = fixture.call("GET", "/sandboxes/" + fixture.sandboxes.infos.back().id);
  CHECK(at(details.body, "/network") ==
        R"({"allowPublicTraffic":true,"maskRequestHost":"app.test:${PORT}","allowOut":[],)"
        R"("denyOut":["8.8.8.8","10.0.0.0/8","2001:db8::/32"]})");
  CHECK(at(details.body, "/allowInternetAccess") == "false");
}

TEST_CASE("what would need a network is refused by name") {
  Fixture fixture;
  const auto [network, name] = GENERATE(table<std::string, std::string>({
      {R"({"allowOut":["1.1.1.1"]})", "'network.allowOut'"},
      {R"({"allowOut":["*.example.com"],"denyOut":["0.0.0.0/0"]})", "'network.allowOut'"},
      {R"({"dnsServers":["1.1.1.1"]})", "'network.dnsServers'"},
      {R"({"egressProxy":{"address":"a:1"}})", "'network.egressProxy.address'"},
      {R"({"rules":{"a.org":[{"transform":{"headers":{"a":"b"}}}]}})", "'network.rules.a.org'"},
      {R"({"httpsPorts":[8443]})", "'network.httpsPorts'"},
  }));
  INFO(network);
  CHECK(contains(problem(fixture.call("POST", "/v2/sandboxes", create_with(network)), 501), name));
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("a malformed network is 400 and names the field, also where it would not be supported") {
  Fixture fixture;
  const auto [network, text] = GENERATE(table<std::string, std::string>({
      {R"([])", "'network' must be an object"},
      {R"({"allowPublicTraffic":"no"})", "'network.allowPublicTraffic' must be true or false"},
      {R"({"denyOut":"8.8.8.8"})", "'network.denyOut' must be an array of strings"},
      {R"({"denyOut":[8]})", "'network.denyOut' must be an array of strings"},
      {R"({"denyOut":["example.com"]})", "'network.denyOut' has 'example.com', which is no IP address"},
      {R"({"denyOut":["1.2.3.4/33"]})", "'network.denyOut' has '1.2.3.4/33'"},
      {R"({"denyOut":["1.2.3.4/"]})", "'network.denyOut' has '1.2.3.4/'"},
      {R"({"denyOut":["fe80::1%eth0"]})", "'network.denyOut'"},
      {R"({"allowOut":["example.com"]})", "'network.allowOut' with domains needs '0.0.0.0/0' in 'denyOut'"},
      {R"({"allowOut":["exa mple.com"],"denyOut":["0.0.0.0/0"]})", "'network.allowOut' has 'exa mple.com'"},
      {R"({"allowOut":["1.2.3.400"]})", "'network.allowOut' has '1.2.3.400'"},
      {R"({"dnsServers":["dns.google"]})", "'network.dnsServers' has 'dns.google', which is no IPv4 address"},
      {R"({"dnsServers":["::1"]})", "'network.dnsServers' has '::1'"},
      {R"({"httpsPorts":[49983]})", "'network.httpsPorts' must not have port 49983"},
      {R"({"httpsPorts":[0]})", "'network.httpsPorts' must have ports from 1 to 65535"},
      {R"({"maskRequestHost":"münchen.de"})", "'network.maskRequestHost' must be an ASCII host name"},
      {R"({"maskRequestHost":"a\r\nX: y"})", "'network.maskRequestHost'"},
      {R"({"maskRequestHost":"a/b"})", "'network.maskRequestHost'"},
      {R"({"maskRequestHost":"a:${port}"})", "'network.maskRequestHost'"},
      {R"({"somethingNew":1})", "'network.somethingNew' is unknown"},
      {R"({"egressProxy":{"address":"a:1"},"denyOut":["x"]})", "'network.denyOut' has 'x'"},
  }));
  INFO(network);
  CHECK(contains(problem(fixture.call("POST", "/v2/sandboxes", create_with(network)), 400), text));
  CHECK_FALSE(fixture.sandboxes.last_create);
}

TEST_CASE("lists are bounded") {
  Fixture fixture;
  std::string list = R"("1.1.1.1")";
  for (int i = 0; i < 1024; ++i) list += R"(,"1.1.1.1")";
  const auto response = fixture.call("POST", "/v2/sandboxes", create_with(R"({"denyOut":[)" + list + "]}"));
  CHECK(contains(problem(response, 400), "more than 1024 entries"));
}

TEST_CASE("PUT network replaces what is denied, and clears what is left out") {
  Fixture fixture;
  const std::string id = fixture.create(create_with(R"({"denyOut":["8.8.8.8"],"allowPublicTraffic":false})"));
  const std::string path = "/sandboxes/" + id + "/network";
  const auto denied = [&] { return fixture.sandboxes.peek(id)->network.egress.deny_out; };

  const auto replaced = fixture.call("PUT", path, R"({"denyOut":["9.9.9.9"],"allow_internet_access":false})");
  CHECK(replaced.status == 204);
  CHECK(replaced.body.empty());
  CHECK(denied() == std::vector<std::string>{"9.9.9.9"});
  CHECK_FALSE(fixture.sandboxes.peek(id)->network.allow_public_traffic);

  CHECK(contains(problem(fixture.call("PUT", path, R"({"denyOut":["nowhere"]})"), 400),
                 "'denyOut' has 'nowhere'"));
  CHECK(contains(problem(fixture.call("PUT", path, R"({"allowPublicTraffic":true})"), 400), "unknown"));
  CHECK(contains(problem(fixture.call("PUT", path, "{"), 400), "JSON"));
  CHECK(contains(problem(fixture.call("PUT", path, R"({"allowOut":["1.1.1.1"]})"), 501), "'allowOut'"));
  CHECK(contains(problem(fixture.call("PUT", path, R"({"allow_internet_access":true})"), 501),
                 "'allow_internet_access'"));
  CHECK(denied() == std::vector<std::string>{"9.9.9.9"});

  CHECK(fixture.call("PUT", path, "{}").status == 204);
  CHECK(denied().empty());
  CHECK(fixture.call("PUT", path).status == 204);
  problem(fixture.call("PUT", "/sandboxes/nonexistingsandbox/network", "{}"), 404);
  problem(fixture.call("PUT", "/sandboxes/nonexistingsandbox/network", R"({"allowOut":["1.1.1.1"]})"), 404);
}
