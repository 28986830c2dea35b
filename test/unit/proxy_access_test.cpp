// Who gets into a sandbox: traffic access tokens, signed URLs that name no sandbox; and what its servers see
// as Host.
#include "proxy/access.hpp"
#include "proxy/headers.hpp"
#include "proxy/signed_url.hpp"
#include "proxy_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

const std::string token_header = "E2b-Traffic-Access-Token: ";

struct PrivateFixture : Fixture {
  PrivateFixture() {
    sandboxes.infos.front().network.allow_public_traffic = false;
    sandboxes.infos.front().traffic_access_token = "open sesame";
  }
};

/// As the SDKs sign.
std::string signature(const std::string& text) {
  static constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string coded = "v1_";
  std::uint32_t bits = 0;
  int count = 0;
  for (const std::uint8_t byte : sha256(text)) {
    bits = bits << 8 | byte;
    for (count += 8; count >= 6; count -= 6) coded += digits[bits >> (count - 6) & 63];
  }
  return coded + digits[bits << (6 - count) & 63];
}

std::string escaped(std::string text) {
  std::string out;
  for (const char c : text) out += c == '+' ? "%2B" : c == '/' ? "%2F" : c == ' ' ? "%20" : std::string(1, c);
  return out;
}

std::string signed_target(const std::string& path, const std::string& operation, const std::string& token,
                          const std::string& user = "user", const std::string& expires = "") {
  std::string text = path + ":" + operation + ":" + user + ":" + token;
  std::string target = "/files?path=" + escaped(path) + "&username=" + user;
  if (!expires.empty()) {
    text += ":" + expires;
    target += "&signature_expiration=" + expires;
  }
  return target + "&signature=" + escaped(signature(text));
}

std::string plain(const std::string& target, const std::string& method = "GET",
                  const std::string& more = last) {
  return method + " " + target + " HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n" + more;
}

proxy::SignedUrl parsed(const std::string& target) {
  auto url = proxy::parse_signed_url({"GET", target, {}});
  if (!std::holds_alternative<proxy::SignedUrl>(url)) throw TestError("not a signed URL: " + target);
  return std::get<proxy::SignedUrl>(std::move(url));
}

}  // namespace

TEST_CASE("without public traffic a port asks for the token") {
  PrivateFixture fixture;
  const std::string missing = fixture.talk(request("/", web, last));
  CHECK(has_status(missing, 403));
  CHECK(contains(missing, "Content-Type: application/json; charset=utf-8"));
  CHECK(body_of(missing) == R"({"sandboxId":")" + id +
                                R"(","message":"Sandbox is secured with traffic access token. Token header )"
                                R"('e2b-traffic-access-token' is missing","code":403})");
  const std::string wrong = GENERATE(as<std::string>(), "open sesamE", "open sesame!", "open sesam", "");
  const std::string refused = fixture.talk(request("/", web, token_header + wrong + "\r\n" + last));
  CHECK(has_status(refused, 403));
  CHECK(contains(refused, "Provided token in header 'e2b-traffic-access-token' is invalid"));
  CHECK(fixture.sandboxes.dials == 0);
}

TEST_CASE("the token opens the port and goes no further") {
  PrivateFixture fixture;
  const std::string name =
      GENERATE(as<std::string>(), "e2b-traffic-access-token", "E2B-Traffic-Access-Token");
  CHECK(has_status(fixture.talk(request("/", web, name + ": open sesame\r\n" + last)), 200));
  CHECK(fixture.guest.last_request.path() == "/");
  CHECK_FALSE(fixture.guest.last_request.headers.get("E2b-Traffic-Access-Token"));
}

TEST_CASE("the token never reaches a guest that does not ask for it either") {
  Fixture fixture;
  CHECK(has_status(fixture.talk(request("/", web, token_header + "x\r\n" + last)), 200));
  CHECK_FALSE(fixture.guest.last_request.headers.get("E2b-Traffic-Access-Token"));
}

TEST_CASE("envd has a token of its own and asks for no other") {
  PrivateFixture fixture;
  CHECK(has_status(fixture.talk(request("/health", proxy::envd_tcp_port, last)), 200));
}

TEST_CASE("the token is asked for in every form of address, for upgrades and in browsers") {
  PrivateFixture fixture;
  const std::string by_host = "GET / HTTP/1.1\r\nHost: 8080-" + id + ".cube.local\r\n";
  CHECK(has_status(fixture.talk(by_host + last), 403));
  CHECK(has_status(fixture.talk(by_host + token_header + "open sesame\r\n" + last), 200));
  CHECK(has_status(fixture.talk(plain("/sandbox/" + id + "/8080/")), 403));
  const std::string upgrade = "Connection: Upgrade, close\r\nUpgrade: echo\r\n\r\n";
  CHECK(has_status(fixture.talk(request("/upgrade", web, upgrade)), 403));
  const std::string page = fixture.talk(request("/", web, "User-Agent: Mozilla/5.0\r\n" + last));
  CHECK(has_status(page, 403));
  CHECK(body_of(page).starts_with("<html><head><title>403 Forbidden</title>"));
}

TEST_CASE("a sandbox without public traffic that lacks a token is closed, not open") {
  PrivateFixture fixture;
  fixture.sandboxes.infos.front().traffic_access_token.clear();
  CHECK(has_status(fixture.talk(request("/", web, token_header + "\r\n" + last)), 403));
}

TEST_CASE("a masked Host is what servers see, the client's is forwarded") {
  Fixture fixture;
  fixture.sandboxes.infos.front().network.mask_request_host = "app.example.com:${PORT}";
  fixture.talk(request("/", web, "X-Forwarded-Host: forged\r\n" + last));
  const http::Headers& seen = fixture.guest.last_request.headers;
  CHECK(seen.get("Host") == "app.example.com:8080");
  CHECK(seen.get("X-Forwarded-Host") == "localhost:3000");
  const auto forwarded = std::ranges::count_if(
      seen.fields(), [](const auto& field) { return field.first == "X-Forwarded-Host"; });
  CHECK(forwarded == 1);
}

TEST_CASE("a Host that is not masked stays, and so does X-Forwarded-Host") {
  Fixture fixture;
  fixture.talk(request("/", web, "X-Forwarded-Host: balancer\r\n" + last));
  CHECK(fixture.guest.last_request.headers.get("Host") == "localhost:3000");
  CHECK(fixture.guest.last_request.headers.get("X-Forwarded-Host") == "balancer");
}

TEST_CASE("a signed URL that names no sandbox reaches the one whose token signed it") {
  Fixture fixture;
  auto other = MemorySandboxes::make("ibbbbbbbbbbbbbbbbbbbb");
  other.access_token = "another-token";
  fixture.sandboxes.infos.insert(fixture.sandboxes.infos.begin(), other);
  const std::string target = signed_target("/home/user/a b+c.txt", "read", "secret-token");
  const std::string response = fixture.talk(plain(target));
  CHECK(has_status(response, 200));
  CHECK(body_of(response) == target);
  CHECK(fixture.guest.requests == 1);
}

TEST_CASE("what a signed URL allows is what its method does") {
  Fixture fixture;
  const std::string read = signed_target("/a", "read", "secret-token");
  const std::string write = signed_target("/a", "write", "secret-token", "", "1900000000");
  const std::string body = "Content-Length: 3\r\n" + last + "abc";
  CHECK(has_status(fixture.talk(plain(read, "HEAD")), 200));
  CHECK(has_status(fixture.talk(plain(read, "POST", body)), 400));
  CHECK(has_status(fixture.talk(plain(write, "POST", body)), 200));
  CHECK(has_status(fixture.talk(plain(write)), 400));
  CHECK(has_status(fixture.talk(plain(write, "OPTIONS", "Access-Control-Request-Method: POST\r\n" + last)),
                   200));
}

TEST_CASE("an expired signature is for envd to refuse") {
  Fixture fixture;
  CHECK(has_status(fixture.talk(plain(signed_target("/a", "read", "secret-token", "user", "1"))), 200));
  CHECK(fixture.guest.requests == 1);
}

TEST_CASE("a signature of no sandbox, or none at all, is 400 with a text") {
  Fixture fixture;
  const std::string good = signed_target("/a", "read", "secret-token");
  std::string other_path = good;
  other_path.replace(other_path.find("%2Fa"), 4, "%2Fb");
  const auto [target, text] = GENERATE_COPY(table<std::string, std::string>({
      {signed_target("/a", "read", "wrong"), "its signature is of none that is there"},
      {other_path, "its signature is of none that is there"},
      {good + "&signature_expiration=1", "its signature is of none that is there"},
      {good + "&signature_expiration=soon", "Invalid signature_expiration"},
      {good + "&signature_expiration=", "Invalid signature_expiration"},
      {"/files?path=a&signature=", "Invalid signature"},
      {"/files?path=a&signature=v1_short", "Invalid signature"},
      {"/files?path=a&signature=v2_" + std::string(43, 'A'), "Invalid signature"},
      {"/files?path=a&signature=v1_" + std::string(42, 'A') + "B", "Invalid signature"},  // bits left over
      {"/files?path=a&signature=v1_" + std::string(43, '*'), "Invalid signature"},
  }));
  INFO(target);
  const std::string response = fixture.talk(plain(target));
  CHECK(has_status(response, 400));
  CHECK(contains(response, text));
  CHECK(fixture.guest.requests == 0);
}

TEST_CASE("what is no signed URL stays the next handler's") {
  Fixture fixture;
  const std::string good = signed_target("/a", "read", "secret-token");
  const std::string query = good.substr(good.find('?'));
  const std::vector<std::string> targets = {
      "/files",          "/files?path=/a", "/files?signature_expiration=1",
      "/files/" + query, "/file" + query,  "/v2/files" + query,
      "/" + query};
  for (const std::string& target : targets) {
    INFO(target);
    CHECK(contains(fixture.talk(plain(target)), "rest " + target));
  }
  CHECK(contains(fixture.talk(plain(good, "DELETE")), "rest "));
}

TEST_CASE("a request that names its sandbox is not looked up by its signature") {
  Fixture fixture;
  const std::string target = signed_target("/a", "read", "of somebody else");
  CHECK(has_status(fixture.talk(request(target, proxy::envd_tcp_port, last)), 200));
}

TEST_CASE("a found signature costs one computation again, until its sandbox is gone") {
  Fixture fixture;
  for (char c = 'b'; c <= 'z'; ++c) {
    auto info = MemorySandboxes::make("i" + std::string(20, c));
    info.access_token = std::string(64, c);
    fixture.sandboxes.infos.push_back(info);
  }
  const auto urls = std::make_shared<proxy::SignedUrls>(fixture.loop.get_executor(), fixture.sandboxes, 1000);
  const proxy::SignedUrl url = parsed(signed_target("/a", "read", std::string(64, 'z')));
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 3; ++i) {
      const auto found = co_await proxy::SignedUrls::find(urls, url);
      CHECK(*found == "i" + std::string(20, 'z'));
    }
    CHECK(urls->computed() == 26);
    CHECK(urls->remembered() == 1);
    fixture.sandboxes.infos.pop_back();
    const auto gone = co_await proxy::SignedUrls::find(urls, url);
    CHECK(gone.error().code == ErrorCode::not_found);
  });
}

TEST_CASE("looking up signatures of 10,000 sandboxes is bounded, and lets others have their turn") {
  Fixture fixture;
  fixture.sandboxes.infos.clear();
  for (int i = 0; i < 10'000; ++i) {
    auto info = MemorySandboxes::make("i" + std::to_string(i));
    info.access_token = random_hex(32);
    fixture.sandboxes.infos.push_back(info);
  }
  const auto urls =
      std::make_shared<proxy::SignedUrls>(fixture.loop.get_executor(), fixture.sandboxes, 15'000);
  const proxy::SignedUrl bogus = parsed(signed_target("/a", "read", "nobody's"));
  int turns = 0;
  bool done = false;
  run(fixture.loop, [&]() -> asio::awaitable<void> {
    asio::co_spawn(
        fixture.loop,
        [&]() -> asio::awaitable<void> {
          while (!done) {
            ++turns;
            co_await asio::post(fixture.loop, asio::use_awaitable);
          }
        },
        asio::detached);
    const auto start = std::chrono::steady_clock::now();
    const auto first = co_await proxy::SignedUrls::find(urls, bogus);
    const auto elapsed = std::chrono::steady_clock::now() - start;
    done = true;
    CHECK(first.error().code == ErrorCode::not_found);
    WARN("10,000 signatures took " << std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count()
                                   << " us");
    // What is left of a second's worth starts one more, and then nothing until time has passed.
    const auto second = co_await proxy::SignedUrls::find(urls, bogus);
    CHECK(second.error().code == ErrorCode::not_found);
    const auto third = co_await proxy::SignedUrls::find(urls, bogus);
    CHECK(third.error().code == ErrorCode::resource_exhausted);
  });
  CHECK(turns >= 9);
  CHECK(urls->computed() == 20'000);
}

TEST_CASE("too many lookups are 429, others go on") {
  proxy::Settings settings;
  settings.signatures_per_second = 1;
  Fixture fixture(settings);
  for (int i = 0; i < 100; ++i)
    fixture.sandboxes.infos.push_back(MemorySandboxes::make("i" + std::to_string(i)));
  CHECK(has_status(fixture.talk(plain(signed_target("/a", "read", "wrong"))), 400));
  const std::string refused = fixture.talk(plain(signed_target("/a", "read", "wrong")));
  CHECK(has_status(refused, 429));
  CHECK(contains(refused, "Retry-After: 1"));
  CHECK(has_status(fixture.talk(request("/", web, last)), 200));
}
