// The agent's plain HTTP, control and tunnel services, and what they are made of.
#include <sys/stat.h>

#include <asio/ip/tcp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <filesystem>
#include <fstream>

#include "agent_client.hpp"
#include "init.hpp"
#include "metrics.hpp"
#include "names.hpp"
#include "packets.hpp"
#include "settle.hpp"
#include "users.hpp"

using namespace cube;
using namespace cube::agent;
using namespace cube::agent::test;

namespace {

const std::string entropy(128, 'a');

std::string init_body(std::string_view more = R"(,"envVars":{"A":"1"})") {
  return R"({"sandboxId":"iabcd0123456789abcdef","templateId":"t1","entropy":")" + entropy +
         R"(","unixTimeNs":"1700000000000000000","accessToken":"secret","newIdentity":true)" +
         std::string(more) + "}";
}

class Directory {
 public:
  Directory() : path(std::filesystem::temp_directory_path() / ("cube-agent-test-" + random_hex(6))) {
    std::filesystem::create_directories(path);
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string read(const std::string& name) const {
    return read_file((path / name).string(), 1 << 20).value();
  }

  std::filesystem::path path;
};

/// A root file system, as far as names go.
struct Root : Directory {
  Root() {
    std::filesystem::create_directories(path / "etc");
    std::filesystem::create_directories(path / "run");
  }
  void write(const std::string& name, std::string_view content) const {
    std::ofstream(path / name) << content;
  }
};

/// A TCP server that answers with what it got, after the peer's end of stream.
asio::awaitable<void> echo_backwards(asio::ip::tcp::acceptor& acceptor) {
  auto socket = co_await acceptor.async_accept(asio::use_awaitable);
  std::string text;
  char chunk[4096];
  asio::error_code error;
  while (!error) {
    const auto count = co_await socket.async_read_some(asio::buffer(chunk),
                                                       asio::redirect_error(asio::use_awaitable, error));
    text.append(chunk, count);
  }
  std::reverse(text.begin(), text.end());
  co_await asio::async_write(socket, asio::buffer(text), asio::use_awaitable);
}

std::string port_bytes(std::uint16_t port) {
  return {static_cast<char>(port & 0xff), static_cast<char>(port >> 8)};
}

}  // namespace

TEST_CASE("users come from the text of passwd and group") {
  const std::string passwd =
      "root:x:0:0:root:/root:/bin/bash\nbroken line\nbad:x:abc:1::/:/bin/sh\n"
      "user:x:1000:1001::/home/user:/bin/zsh\nbare:x:5:6";
  const std::string group = "root:x:0:\nsudo:x:27:other,user\nusers:x:1001:user\nalmost:x:28:user2,\n";
  const auto user = find_user_in(passwd, group, "user");
  REQUIRE(user);
  CHECK(user->uid == 1000);
  CHECK(user->gid == 1001);
  CHECK(user->home == "/home/user");
  CHECK(user->shell == "/bin/zsh");
  CHECK(user->groups == std::vector<gid_t>{1001, 27});
  const auto bare = find_user_in(passwd, group, "bare");
  REQUIRE(bare);
  CHECK(bare->home == "/");
  CHECK(bare->shell == "/bin/sh");
  CHECK_FALSE(find_user_in(passwd, group, "bad"));
  CHECK_FALSE(find_user_in(passwd, group, "nobody"));
  CHECK_FALSE(find_user_in(passwd, group, ""));
  CHECK(name_of_id(group, 27) == "sudo");
  CHECK_FALSE(name_of_id(group, 99));
  CHECK(find_user("no such user").error().message == "invalid username: 'no such user'");
}

TEST_CASE("paths begin at the working directory or the home") {
  const User user{"u", 1, 1, {}, "/home/u", "/bin/sh"};
  Settings settings;
  CHECK(resolve_path(settings, user, "") == "/home/u");
  CHECK(resolve_path(settings, user, "a/../b/./c/") == "/home/u/b/c");
  CHECK(resolve_path(settings, user, "/x//y/..") == "/x");
  CHECK(resolve_path(settings, user, "~") == "/home/u");
  CHECK(resolve_path(settings, user, "~/d") == "/home/u/d");
  CHECK(resolve_path(settings, user, "../../../..") == "/");
  settings.default_workdir = "/app";
  CHECK(resolve_path(settings, user, "") == "/app");
  CHECK(resolve_path(settings, user, "src") == "/app/src");
  settings.default_workdir = "~/w";
  CHECK(resolve_path(settings, user, "src") == "/home/u/w/src");
}

TEST_CASE("a clone's names are written where programs look for them") {
  Root root;
  root.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 mine\n");
  root.write("etc/machine-id", "template\n");
  guest::InitRequest request{};
  request.sandbox_id = "iabcd0123456789abcdef";
  request.template_id = "t1";
  REQUIRE(write_names(root.path.string(), request));
  CHECK(root.read("etc/hostname") == "iabcd0123456789abcdef\n");
  CHECK(root.read("etc/hosts") == "127.0.1.1 iabcd0123456789abcdef\n127.0.0.1 localhost\n10.0.0.1 mine\n");
  CHECK(root.read("etc/machine-id") == "template\n");
  CHECK(root.read("run/e2b/.E2B_SANDBOX") == "true");
  CHECK(root.read("run/e2b/.E2B_SANDBOX_ID") == "iabcd0123456789abcdef");
  CHECK(root.read("run/e2b/.E2B_TEMPLATE_ID") == "t1");

  request.new_identity = true;
  REQUIRE(write_names(root.path.string(), request));
  const std::string first = root.read("etc/machine-id");
  CHECK(first.size() == 33);
  REQUIRE(write_names(root.path.string(), request));
  CHECK(root.read("etc/machine-id") != first);
  CHECK(root.read("etc/hosts") == "127.0.1.1 iabcd0123456789abcdef\n127.0.0.1 localhost\n10.0.0.1 mine\n");
  CHECK_FALSE(write_names("/no/such/root", request));
}

TEST_CASE("names that are kept in memory are written there, and a file of the user's own in its place") {
  Root root;
  root.write("etc/hostname", "image\n");
  root.write("etc/hosts", "127.0.0.1 localhost\n");
  root.write("etc/nsswitch.conf", "passwd: files\nhosts: files myhostname dns\n");
  guest::InitRequest request{};
  request.sandbox_id = "iabcd0123456789abcdef";
  request.new_identity = true;
  for (int boot = 0; boot < 2; ++boot) {
    REQUIRE(keep_names_in_memory(root.path.string()));
    CHECK(std::filesystem::read_symlink(root.path / "etc/hostname") == "/run/cube/hostname");
    CHECK(std::filesystem::read_symlink(root.path / "etc/machine-id") == "/run/cube/machine-id");
    CHECK(root.read("run/cube/hostname") == (boot == 0 ? "image\n" : ""));
    REQUIRE(write_names(root.path.string(), request));
    CHECK(root.read("run/cube/hostname") == "iabcd0123456789abcdef\n");
    CHECK(root.read("run/cube/machine-id").size() == 33);
    CHECK(root.read("etc/hosts") == "127.0.0.1 localhost\n");  // found without it
    std::filesystem::remove_all(root.path / "run/cube");
  }
  REQUIRE(keep_names_in_memory(root.path.string()));
  std::filesystem::remove(root.path / "etc/hostname");
  root.write("etc/hostname", "mine\n");
  REQUIRE(write_names(root.path.string(), request));
  CHECK(root.read("etc/hostname") == "iabcd0123456789abcdef\n");
  CHECK_FALSE(std::filesystem::is_symlink(root.path / "etc/hostname"));
}

TEST_CASE("names are written over in place, but only over plain files") {
  Root root;
  root.write("etc/hostname", "a name that is longer than any sandbox's\n");
  root.write("elsewhere", "untouched");
  std::filesystem::create_symlink("../elsewhere", root.path / "etc/machine-id");
  const auto inode = [](const std::filesystem::path& path) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_ino;
  };
  const ino_t before = inode(root.path / "etc/hostname");
  guest::InitRequest request{};
  request.sandbox_id = "iabcd0123456789abcdef";
  request.new_identity = true;
  REQUIRE(write_names(root.path.string(), request));
  CHECK(root.read("etc/hostname") == "iabcd0123456789abcdef\n");
  CHECK(inode(root.path / "etc/hostname") == before);
  CHECK(root.read("elsewhere") == "untouched");
  CHECK_FALSE(std::filesystem::is_symlink(root.path / "etc/machine-id"));
  CHECK(root.read("etc/machine-id").size() == 33);
}

TEST_CASE("interrupts of a device are summed over processors") {
  const std::string table =
      "            CPU0       CPU1\n  4:        120          1   IO-APIC   4-edge      ttyS0\n"
      " 28:         41          2   IO-APIC   9-edge      virtio4\n 29:  7  0   IO-APIC  10-edge      "
      "virtio44\n"
      "LOC:       1701       1768   Local timer interrupts\n";
  CHECK(interrupts_of(table, "virtio4") == 43);
  CHECK(interrupts_of(table, "virtio44") == 7);
  CHECK(interrupts_of(table, "virtio") == 0);
  CHECK(interrupts_of("virtio4", "virtio4") == 0);
}

TEST_CASE("metrics are read from the kernel's tables") {
  CpuUsage usage;
  CHECK(usage.sample("cpu  50 0 50 100 0 0 0 0 0 0\n") == Approx(50));
  CHECK(usage.sample("cpu  125 0 50 125 0 0 0 0 0 0\n") == Approx(75));
  CHECK(usage.sample("cpu  125 0 50 125 0 0 0 0 0 0\n") == Approx(0));
  CHECK(usage.sample("nonsense") == Approx(0));
  const MemoryUsage memory = memory_usage(
      "MemTotal:       1000 kB\nMemFree:         300 kB\nBuffers:         100 kB\nCached:          200 kB\n"
      "SwapCached:       77 kB\nSReclaimable:     50 kB\n");
  CHECK(memory.total == 1000 * 1024);
  CHECK(memory.cache == 250 * 1024);
  CHECK(memory.used == 350 * 1024);
}

TEST_CASE("the control service initialises: settings change, and malformed requests change nothing") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto ready = co_await guest.request(guest.control_port, "GET", "/ready", "", "");
    CHECK(ready.status == 200);
    CHECK(ready.body == R"({"envdVersion":")" + std::string(cube::guest::envd_version) + R"("})");

    for (const char* bad : {"", "[]", "{}", R"({"sandboxId":5})"}) {
      const auto refused =
          co_await guest.request(guest.control_port, "POST", "/init", "application/json", bad);
      CHECK(refused.status == 400);
    }
    const auto wrong =
        co_await guest.request(guest.control_port, "POST", "/init", "", init_body(R"(,"defaultUser":[])"));
    CHECK(wrong.status == 400);
    CHECK(guest.agent->settings().access_token.empty());

    const auto good = co_await guest.request(guest.control_port, "POST", "/init", "",
                                             init_body(R"(,"envVars":{"A":"1"},"unknown":{})"));
    CHECK(good.status == 204);
    CHECK(guest.agent->settings().sandbox_id == "iabcd0123456789abcdef");
    CHECK(guest.agent->settings().access_token == "secret");
    CHECK(guest.agent->settings().default_user == "user");
    co_await expect_status(guest.get("/envs"), 401);
    guest.headers["X-Access-Token"] = "secret";
    const auto variables = co_await guest.get("/envs");
    CHECK(
        variables.body ==
        R"({"A":"1","E2B_SANDBOX":"true","E2B_SANDBOX_ID":"iabcd0123456789abcdef","E2B_TEMPLATE_ID":"t1"})");
  }(guest));
}

TEST_CASE("variables of an earlier init stay when a later one names none, and go when it names others") {
  using Variables = std::map<std::string, std::string>;
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto variables_after = [&guest](std::string body) -> asio::awaitable<Variables> {
      co_await expect_status(
          guest.request(guest.control_port, "POST", "/init", "application/json", std::move(body)), 204);
      co_return guest.agent->settings().env_vars;
    };
    const Variables first = co_await variables_after(init_body());
    CHECK(first == Variables{{"A", "1"}});
    const Variables kept = co_await variables_after(init_body(""));
    CHECK(kept == Variables{{"A", "1"}});
    const Variables replaced = co_await variables_after(init_body(R"(,"envVars":{"B":"2"})"));
    CHECK(replaced == Variables{{"B", "2"}});
    const Variables emptied = co_await variables_after(init_body(R"(,"envVars":{})"));
    CHECK(emptied.empty());
  }(guest));
}

TEST_CASE("the control service runs commands and keeps the end of their output") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const std::string user = guest.agent->settings().default_user;
    const auto run = [&](std::string command, std::string more) {
      JsonWriter json;
      json.begin_object().key("command").value(command).key("user").value(user);
      std::string body = json.take() + more + "}";
      return guest.request(guest.control_port, "POST", "/run", "application/json", std::move(body));
    };
    const auto both = co_await run("echo out; echo err >&2; exit 9", "");
    CHECK(both.body == R"({"exitCode":9,"output":"out\nerr\n"})");
    const auto longest =
        co_await run("head -c 200000 /dev/zero | tr '\\0' x; echo end; setsid sleep 5 & exit 0", "");
    CHECK(longest.body.size() < 66 * 1024);
    CHECK(longest.body.find("xend") != std::string::npos);
    const auto late = co_await run("echo begun; sleep 1000", R"(,"timeoutMs":2000)");
    CHECK(late.status == 200);
    CHECK(late.body == R"({"exitCode":-1,"output":"begun\n\nkilled after 2000 ms\n"})");
    co_await expect_status(
        guest.request(guest.control_port, "POST", "/run", "", R"({"command":"true","user":"nobody-else"})"),
        401);
  }(guest));
}

TEST_CASE("a token is asked for everywhere but /health, and pages of any origin may come") {
  Guest guest;
  guest.agent->settings().access_token = "right";
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    co_await expect_status(guest.get("/health"), 204);
    for (const char* path : {"/metrics", "/envs", "/files?path=/etc/passwd", "/nothing"}) {
      const auto refused = co_await guest.get(path);
      CHECK(refused.status == 401);
      CHECK(refused.headers.get("Access-Control-Allow-Origin") == "*");
    }
    const auto refused = co_await guest.call("List", "{}");
    CHECK(refused.status == 401);
    CHECK(refused.body.find("unauthorized access, please provide a valid access token") != std::string::npos);
    for (const char* token : {"wrong", "righ", "right2", ""}) {
      guest.headers["X-Access-Token"] = token;
      co_await expect_status(guest.call("List", "{}"), 401);
    }
    guest.headers["X-Access-Token"] = "right";
    co_await expect_status(guest.call("List", "{}"), 200);
    const auto metrics = co_await guest.get("/metrics");
    const JsonObject object = JsonObject::parse(metrics.body).value();
    CHECK(object.integer("cpu_count").value() >= 1);
    CHECK(object.integer("mem_total").value() > object.integer("mem_used").value());
    CHECK(object.integer("disk_total").value() >= object.integer("disk_used").value());
    for (const char* path : {"/freeze", "/upgrade", "/nothing"}) {
      const auto missing = co_await guest.request(guest.port, "POST", path, "application/json", "{}");
      CHECK(missing.status == 404);
      CHECK(missing.body.find(R"("code":404)") != std::string::npos);
    }
    guest.headers = field("Access-Control-Request-Headers", "authorization,x-access-token");
    const auto preflight = co_await guest.request(guest.port, "OPTIONS", "/process.Process/Start", "", "");
    CHECK(preflight.status == 204);
    CHECK(preflight.headers.get("Access-Control-Allow-Headers") == "authorization,x-access-token");
  }(guest));
}

TEST_CASE("envd's own init changes settings for who knows the token, and once for each moment") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto init = [&guest](std::string body) {
      return guest.request(guest.port, "POST", "/init", "application/json", std::move(body));
    };
    const Settings& settings = guest.agent->settings();
    const std::string user = settings.default_user;
    const auto first = co_await init(
        R"({"accessToken":"t","envVars":{"A":"1"},"timestamp":"2026-01-02T03:04:05Z","defaultWorkdir":"/tmp",)"
        R"("hyperloopIP":"","volumeMounts":[],"lifecycleID":"l"})");
    CHECK(first.status == 204);
    CHECK(first.headers.get("X-Envd-Version") == cube::guest::envd_version);
    CHECK(settings.access_token == "t");
    CHECK(settings.default_workdir == "/tmp");
    CHECK(settings.default_user == user);
    CHECK(settings.env_vars.at("A") == "1");

    co_await expect_status(init(R"({"envVars":{"A":"2"}})"), 401);
    co_await expect_status(init(R"({"accessToken":"u","envVars":{"A":"2"}})"), 401);
    co_await expect_status(init(R"({"accessToken":"t","envVars":{"A":"2"},"caBundle":"PEM"})"), 501);
    co_await expect_status(
        init(R"({"accessToken":"t","envVars":{"A":"2"},"volumeMounts":[{"nfs_target":"n","path":"/p"}]})"),
        501);
    co_await expect_status(init(R"({"accessToken":"t","envVars":{"A":"2"},"defaultUser":"nobody-else"})"),
                           400);
    co_await expect_status(init(R"({"accessToken":"t","envVars":{"A":"2"},"timestamp":"now"})"), 400);
    CHECK(settings.env_vars.at("A") == "1");

    co_await expect_status(
        init(R"({"accessToken":"t","envVars":{"A":"2"},"timestamp":"2026-01-02T03:04:05.000Z"})"), 204);
    CHECK(settings.env_vars.at("A") == "1");  // stale
    co_await expect_status(
        init(R"({"accessToken":"t","envVars":{"B":"2"},"timestamp":"2026-01-02T03:04:05.001Z"})"), 204);
    CHECK(settings.env_vars.size() == 1);
    CHECK(settings.env_vars.at("B") == "2");
  }(guest));
}

TEST_CASE("a tunnel leads to a port of the guest, with half-close") {
  Guest guest;
  const std::uint16_t tunnel = guest.agent->listen_tunnel("127.0.0.1", 0).value();
  guest.run([](Guest& guest, std::uint16_t tunnel) -> asio::awaitable<void> {
    for (const char* address : {"127.0.0.1", "::1"}) {
      asio::ip::tcp::acceptor server(guest.loop, {asio::ip::make_address(address), 0});
      const std::uint16_t port = server.local_endpoint().port();
      asio::co_spawn(guest.loop, echo_backwards(server), asio::detached);
      auto stream = (co_await http::connect_tcp("127.0.0.1", tunnel, std::chrono::seconds(5))).value();
      std::string text = port_bytes(port);
      for (int i = 0; i < 500000; ++i) text += static_cast<char>('a' + i % 23);
      // More than every buffer on the way holds: the answer is only sent after our half-close.
      const auto sent = co_await stream->write(asio::buffer(text));
      REQUIRE(sent.ok());
      stream->shutdown_write();
      std::string answer;
      char chunk[65536];
      for (std::size_t count = 1; count > 0;) {
        count = (co_await stream->read_some(asio::buffer(chunk))).value();
        answer.append(chunk, count);
      }
      std::string expected(text.substr(2));
      std::reverse(expected.begin(), expected.end());
      REQUIRE(answer.size() == expected.size() + 1);
      CHECK(answer[0] == '\0');
      CHECK(answer.substr(1) == expected);
      server.close();

      auto refused = (co_await http::connect_tcp("127.0.0.1", tunnel, std::chrono::seconds(5))).value();
      const std::string closed = port_bytes(port);
      const auto asked = co_await refused->write(asio::buffer(closed));
      REQUIRE(asked.ok());
      const auto told = co_await refused->read_some(asio::buffer(chunk));
      CHECK(told.value() == 1);
      CHECK(chunk[0] == 1);
      const auto end = co_await refused->read_some(asio::buffer(chunk));
      CHECK(end.value() == 0);
    }
  }(guest, tunnel));
}

TEST_CASE("services of the image are started in order and again when they end") {
  Guest guest;
  Directory services;
  Directory logs;
  std::ofstream(services.path / "20-second.sh") << "#!/bin/sh\necho run\nexit 1\n";
  std::ofstream(services.path / "ignored") << "#!/bin/sh\necho no\n";
  std::filesystem::permissions(services.path / "20-second.sh", std::filesystem::perms::owner_all);
  guest.agent->start_services(services.path.string(), logs.path.string());
  guest.run([](std::string log) -> asio::awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    for (std::string text; text.find("run\nrun\n") == std::string::npos;) {
      timer.expires_after(std::chrono::milliseconds(20));
      co_await timer.async_wait(asio::use_awaitable);
      if (auto content = read_file(log, 1 << 20)) text = *content;
    }
  }((logs.path / "cube-20-second.log").string()));
  CHECK_FALSE(std::filesystem::exists(logs.path / "cube-ignored.log"));
}

TEST_CASE(
    "a stream's first message goes out with the head and its last one with the end, in one write each") {
  Router router;
  router.add_server_stream("/Two",
                           [](CallContext, JsonObject, MessageSink& sink) -> asio::awaitable<Result<void>> {
                             const auto sent = co_await sink.send("{\"n\":1}");
                             sink.send_last("{\"n\":2}");
                             co_return sent;
                           });
  asio::io_context loop;
  http::Server server(loop.get_executor(), [&](http::Exchange& exchange) -> asio::awaitable<void> {
    static_cast<void>(co_await router.serve(exchange));
  });
  std::string first, last;
  cube::test::run(loop, [&]() -> asio::awaitable<void> {
    auto [ours, theirs] = cube::test::make_packet_pair(loop);
    server.serve(std::move(theirs), "test");
    const std::string message = enveloped("{}");
    const std::string request =
        "POST /Two HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nContent-Length: " +
        std::to_string(message.size()) + "\r\n\r\n" + message;
    cube::test::must(co_await ours->write(asio::buffer(request)));
    first = co_await cube::test::read_packet(*ours);
    last = co_await cube::test::read_packet(*ours);
  });
  CHECK(first.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(first.ends_with("{\"n\":1}\r\n"));
  CHECK(last.find("{\"n\":2}") != std::string::npos);
  CHECK(last.ends_with("{}\r\n0\r\n\r\n"));
}
