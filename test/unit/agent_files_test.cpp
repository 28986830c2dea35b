// The filesystem service and /files over HTTP, on real directories of this machine.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <zlib.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/use_awaitable.hpp>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "connect_stream.hpp"
#include "content_coding.hpp"
#include "gzip.hpp"
#include "services.hpp"
#include "watcher.hpp"

using namespace cube;
using namespace cube::agent;

namespace {

/// The two services on a server, and a directory for them to work in.
class Site {
 public:
  Site() {
    settings.default_user = user_name_of(::geteuid());
    settings.default_workdir = directory;
    std::filesystem::create_directories(directory);
    service = add_filesystem_service(router, loop.get_executor(), settings);
    port = server.listen("127.0.0.1", 0).value();
  }
  ~Site() {
    server.stop();
    std::filesystem::remove_all(directory);
  }

  void run(asio::awaitable<void> test) {
    std::exception_ptr failure;
    bool done = false;
    asio::co_spawn(loop, std::move(test), [&](std::exception_ptr exception) {
      failure = exception;
      done = true;
      loop.stop();
    });
    loop.run_for(std::chrono::seconds(120));
    if (failure) std::rethrow_exception(failure);
    REQUIRE(done);
  }

  asio::awaitable<http::ClientConnection> connect() {
    auto stream = co_await http::connect_tcp("127.0.0.1", port, std::chrono::seconds(5));
    co_return http::ClientConnection(std::move(*stream));
  }

  http::RequestHead head(std::string method, std::string target, std::string type = {}) const {
    http::RequestHead result;
    result.method = std::move(method);
    result.target = std::move(target);
    result.headers.add("Host", "guest");
    if (!type.empty()) result.headers.add("Content-Type", std::move(type));
    return result;
  }

  asio::awaitable<http::Response> request(http::RequestHead head, std::string body) {
    auto connection = co_await connect();
    auto response = co_await http::request(connection, std::move(head), std::move(body), 16 << 20);
    co_return std::move(*response);
  }

  asio::awaitable<http::Response> call(std::string method, std::string json) {
    co_return co_await request(head("POST", "/filesystem.Filesystem/" + method, "application/json"),
                               std::move(json));
  }

  /// The code of an RPC's error, or "ok".
  asio::awaitable<std::string> outcome(std::string method, std::string json) {
    const auto response = co_await call(std::move(method), std::move(json));
    if (response.status == 200) co_return std::string("ok");
    co_return std::to_string(response.status) + ' ' +
        JsonObject::parse(response.body).value().string("code").value();
  }

  /// The polled watcher's events since the last call, as "CREATE a, WRITE a".
  asio::awaitable<std::string> events(std::string id) {
    const auto response = co_await call("GetWatcherEvents", "{\"watcherId\":\"" + id + "\"}");
    REQUIRE(response.status == 200);
    std::string text;
    simdjson::dom::parser parser;
    for (const simdjson::dom::element event : parser.parse(response.body)["events"].get_array()) {
      if (!text.empty()) text += ", ";
      text += std::string_view(event["type"].get_string()).substr(11);
      text += ' ';
      text += std::string_view(event["name"].get_string());
    }
    co_return text;
  }

  asio::awaitable<std::string> watch(std::string path, bool recursive) {
    const auto response = co_await call(
        "CreateWatcher", "{\"path\":\"" + path + "\",\"recursive\":" + (recursive ? "true}" : "false}"));
    co_return JsonObject::parse(response.body).value().string("watcherId").value();
  }

  void write(const std::string& name, std::string_view content) const {
    std::ofstream(directory + '/' + name) << content;
  }
  std::string read(const std::string& name) const {
    return read_file(directory + '/' + name, 1 << 20).value();
  }

  const std::string directory = std::filesystem::temp_directory_path() / ("cube-files-test-" + random_hex(6));
  asio::io_context loop{1};
  Settings settings;
  Router router;
  std::shared_ptr<FilesystemService> service;
  http::Server server{loop.get_executor(), [this](http::Exchange& exchange) { return serve(exchange); }};
  std::uint16_t port = 0;

 private:
  asio::awaitable<void> serve(http::Exchange& exchange) {
    const bool served = co_await router.serve(exchange);  // not in the condition: g++ 12 breaks the frame
    if (served) co_return;
    if (exchange.request().path() == "/files/compose")
      co_await serve_compose(exchange, settings);
    else
      co_await serve_files(exchange, settings);
  }
};

// g++ 12 breaks the frame of a coroutine that awaits inside an assertion.
asio::awaitable<void> expect(asio::awaitable<std::string> actual, std::string wanted) {
  const std::string got = co_await std::move(actual);
  CHECK(got == wanted);
}

asio::awaitable<void> expect_ok(asio::awaitable<Result<void>> actual) {
  const Result<void> got = co_await std::move(actual);
  REQUIRE(got.ok());
}

/// Deeper than any path can name.
void make_deep_tree(const std::string& root, int levels) {
  Fd directory = open_file(root, O_RDONLY | O_DIRECTORY).value();
  for (int i = 0; i < levels; ++i) {
    REQUIRE(::mkdirat(directory.get(), "deep", 0755) == 0);
    directory = Fd(::openat(directory.get(), "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(directory);
  }
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(::deflateInit2(&stream, 9, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(text.size() + 1024, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

std::string part(const std::string& name, const std::string& content) {
  return "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + name + "\"\r\n\r\n" +
         content + "\r\n";
}

long resident_kilobytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("calls are refused as Connect says") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    const std::string stat = "/filesystem.Filesystem/Stat";
    auto response = co_await site.request(site.head("GET", stat), "");
    CHECK(response.status == 405);
    response = co_await site.request(site.head("POST", stat, "text/plain"), "{}");
    CHECK(response.status == 415);
    auto head = site.head("POST", stat, "application/json; charset=utf-8");
    head.headers.add("Content-Encoding", "br");
    response = co_await site.request(head, "{}");
    CHECK(response.status == 415);
    head.headers.set("Content-Encoding", "identity");
    head.headers.set("Connect-Timeout-Ms", "1x");
    response = co_await site.request(head, "{}");
    CHECK(response.status == 400);
    head.headers.set("Connect-Timeout-Ms", "0");
    head.headers.set("Authorization", "Basic " + base64_encode("nobody-knows:"));
    response = co_await site.request(head, "{}");
    CHECK(response.status == 401);
    CHECK(response.body.find("invalid username: 'nobody-knows'") != std::string::npos);
    co_await expect(site.outcome("Stat", "[]"), "400 invalid_argument");
    co_await expect(site.outcome("Stat", "{\"path\":1}"), "400 invalid_argument");
  }(site));
}

TEST_CASE("entries tell what a file is") {
  Site site;
  site.write("f", "12345");
  std::filesystem::create_symlink("f", site.directory + "/link");
  std::filesystem::create_symlink("nowhere", site.directory + "/dangling");
  site.run([](Site& site) -> asio::awaitable<void> {
    const auto entry = [&](std::string name) -> asio::awaitable<JsonObject> {
      const auto response = co_await site.call("Stat", "{\"path\":\"" + name + "\",\"unknown\":1}");
      co_return JsonObject::parse(response.body).value().object("entry").value();
    };
    const JsonObject file = co_await entry("f");
    CHECK(file.string("name").value() == "f");
    CHECK(file.string("path").value() == site.directory + "/f");
    CHECK(file.string("type").value() == "FILE_TYPE_FILE");
    CHECK(file.string("size").value() == "5");
    CHECK(file.integer("mode").value() == 0644);
    CHECK(file.string("permissions").value() == "-rw-r--r--");
    CHECK(file.string("owner").value() == user_name_of(::geteuid()));
    CHECK(file.string("modifiedTime").value().size() == 30);
    CHECK_FALSE(file.boolean("isSymlink", true).value());
    CHECK_FALSE(file.has("symlinkTarget"));
    const JsonObject link = co_await entry("link");
    CHECK(link.string("type").value() == "FILE_TYPE_FILE");
    CHECK(link.string("permissions").value() == "Lrwxrwxrwx");
    CHECK(link.boolean("isSymlink").value());
    CHECK(link.string("symlinkTarget").value() == site.directory + "/f");
    const JsonObject dangling = co_await entry("dangling");
    CHECK(dangling.string("type").value() == "FILE_TYPE_UNSPECIFIED");
    CHECK(dangling.boolean("isSymlink").value());
    const auto missing = co_await site.call("Stat", "{\"path\":\"/no/such\"}");
    CHECK(missing.body == R"({"code":"not_found","message":"path '/no/such' does not exist"})");
  }(site));
}

TEST_CASE("directories are made, moved, listed and removed") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    co_await expect(site.outcome("MakeDir", R"({"path":"b/c/d"})"), "ok");
    co_await expect(site.outcome("MakeDir", R"({"path":"b/c"})"), "409 already_exists");
    site.write("a", "");
    co_await expect(site.outcome("MakeDir", R"({"path":"a"})"), "400 invalid_argument");
    co_await expect(site.outcome("Move", R"({"source":"a","destination":"new/deep/a2"})"), "ok");
    co_await expect(site.outcome("Move", R"({"source":"a","destination":"x"})"), "404 not_found");
    std::filesystem::create_directory_symlink("b", site.directory + "/link");

    const auto list = [&](std::string json) -> asio::awaitable<std::string> {
      const auto response = co_await site.call("ListDir", std::move(json));
      if (response.status != 200) co_return std::to_string(response.status);
      std::string text;
      simdjson::dom::parser parser;
      for (const simdjson::dom::element entry : parser.parse(response.body)["entries"].get_array())
        text +=
            std::string(std::string_view(entry["path"].get_string())).substr(site.directory.size() + 1) + ' ';
      co_return text;
    };
    co_await expect(list(R"({"path":"."})"), "b link new ");
    co_await expect(list(R"({"path":".","depth":2})"), "b b/c link new new/deep ");
    co_await expect(list(R"({"path":".","depth":9})"), "b b/c b/c/d link new new/deep new/deep/a2 ");
    co_await expect(list(R"({"path":"link"})"), "link/c ");
    co_await expect(list(R"({"path":"new/deep/a2"})"), "400");
    co_await expect(list(R"({"path":"nothing"})"), "404");

    co_await expect(site.outcome("Remove", R"({"path":"link"})"), "ok");
    CHECK(std::filesystem::exists(site.directory + "/b/c/d"));
    co_await expect(site.outcome("Remove", R"({"path":"nothing"})"), "ok");
    co_await expect(site.outcome("Remove", R"({"path":"/"})"), "400 invalid_argument");
    std::filesystem::create_directory_symlink("/etc", site.directory + "/b/c/etc");
    make_deep_tree(site.directory + "/b", 5000);
    for (int i = 0; i < 1200; ++i) site.write("b/c/" + std::to_string(i), "");
    co_await expect(site.outcome("Remove", R"({"path":"b"})"), "ok");
    CHECK_FALSE(std::filesystem::exists(site.directory + "/b"));
    CHECK(std::filesystem::exists("/etc/passwd"));
  }(site));
}

TEST_CASE("a polled watcher tells fsnotify's events in order") {
  Site site;
  site.write("old", "x");
  site.run([](Site& site) -> asio::awaitable<void> {
    const std::string id = co_await site.watch(".", false);
    CHECK(id.starts_with("w"));
    site.write("f", "content");
    co_await expect(site.events(id), "CREATE f, WRITE f");
    std::filesystem::permissions(site.directory + "/f", std::filesystem::perms::owner_read);
    co_await expect(site.events(id), "CHMOD f");
    std::filesystem::rename(site.directory + "/f", site.directory + "/g");
    co_await expect(site.events(id), "RENAME f, CREATE g");
    std::filesystem::remove(site.directory + "/g");
    co_await expect(site.events(id), "REMOVE g");
    std::filesystem::create_directory(site.directory + "/d");
    site.write("d/inner", "");
    co_await expect(site.events(id), "CREATE d");  // not recursive
    co_await expect(site.outcome("RemoveWatcher", "{\"watcherId\":\"" + id + "\"}"), "ok");
    co_await expect(site.outcome("GetWatcherEvents", "{\"watcherId\":\"" + id + "\"}"), "404 not_found");
    co_await expect(site.outcome("CreateWatcher", R"({"path":"old"})"), "400 invalid_argument");
    co_await expect(site.outcome("CreateWatcher", R"({"path":"none"})"), "404 not_found");
  }(site));
}

TEST_CASE("a recursive watcher follows directories that come, go and move") {
  Site site;
  std::filesystem::create_directories(site.directory + "/a/b");
  std::filesystem::create_directories(site.directory + "-outside");
  site.run([](Site& site) -> asio::awaitable<void> {
    const std::string id = co_await site.watch(".", true);
    site.write("a/b/f", "1");
    co_await expect(site.events(id), "CREATE a/b/f, WRITE a/b/f");
    std::filesystem::create_directories(site.directory + "/n/m");  // m is there before n is watched
    co_await expect(site.events(id), "CREATE n, CREATE n/m");
    site.write("n/m/f", "");
    co_await expect(site.events(id), "CREATE n/m/f");
    std::filesystem::rename(site.directory + "/n", site.directory + "/a/n");
    co_await expect(site.events(id), "RENAME n, CREATE a/n");
    site.write("a/n/m/g", "");
    co_await expect(site.events(id), "CREATE a/n/m/g");
    std::filesystem::rename(site.directory + "/a/n", site.directory + "-outside/n");
    co_await expect(site.events(id), "RENAME a/n");
    std::ofstream(site.directory + "-outside/n/m/h") << "unseen";
    co_await expect(site.events(id), "");
    std::filesystem::remove_all(site.directory + "/a/b");
    co_await expect(site.events(id), "REMOVE a/b/f, REMOVE a/b");
  }(site));
  std::filesystem::remove_all(site.directory + "-outside");
}

TEST_CASE("a recursive watcher tells at once what a directory got before it was watched") {
  const Site site;
  asio::io_context loop;  // that never runs: the watcher has no turn of its own
  const auto opened = DirectoryWatcher::open(loop.get_executor(), site.directory, {.recursive = true});
  const std::shared_ptr<DirectoryWatcher> watcher = opened.value();
  const auto told = [&] {
    const auto events = watcher->take();
    std::string text;
    for (const WatchEvent& event : events.value())
      text.append(text.empty() ? "" : ", ").append(to_string(event.type).substr(11)).append(" " + event.name);
    return text;
  };
  std::filesystem::create_directory(site.directory + "/d");
  site.write("d/full", "content");
  site.write("d/empty", "");
  const std::string first = told();
  CHECK((first == "CREATE d, CREATE d/full, WRITE d/full, CREATE d/empty" ||
         first == "CREATE d, CREATE d/empty, CREATE d/full, WRITE d/full"));
  site.write("d/empty", "no longer");
  CHECK(told() == "WRITE d/empty");
}

TEST_CASE("a watch stream starts, tells of an upload exactly, keeps alive and ends with the client") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    auto connection = co_await site.connect();
    auto head = site.head("POST", "/filesystem.Filesystem/WatchDir", "application/connect+json");
    head.headers.add("Keepalive-Ping-Interval", "1");
    const std::string body = encode_envelope(0, R"({"path":".","includeEntry":true})");
    head.headers.add("Content-Length", std::to_string(body.size()));
    co_await expect_ok(connection.begin(head));
    co_await expect_ok(connection.write(asio::buffer(body)));
    co_await expect_ok(connection.finish());
    const auto answer = co_await connection.read_head();
    REQUIRE(answer.ok());
    CHECK(answer->headers.get("Content-Type") == "application/connect+json");

    EnvelopeParser parser;
    std::vector<char> buffer(4096);
    const auto next = [&]() -> asio::awaitable<JsonObject> {
      for (;;) {
        auto envelope = parser.next();
        if (envelope.value()) co_return JsonObject::parse((**envelope).payload).value();
        const auto count = co_await connection.read_body(asio::buffer(buffer));
        REQUIRE(count.value() > 0);
        parser.append(std::string_view(buffer.data(), *count));
      }
    };
    const JsonObject start = co_await next();
    CHECK(start.has("start"));
    const auto uploaded = co_await site.request(
        site.head("POST", "/files?path=up.txt", "application/octet-stream"), std::string(700'000, 'u'));
    CHECK(uploaded.status == 200);
    for (const std::string type : {"EVENT_TYPE_CREATE", "EVENT_TYPE_CHMOD", "EVENT_TYPE_WRITE"}) {
      const JsonObject message = co_await next();
      const JsonObject event = message.object("filesystem").value();
      CHECK(event.string("type").value() == type);
      CHECK(event.string("name").value() == "up.txt");
      CHECK(event.object("entry").value().string("name").value() == "up.txt");
    }
    const JsonObject keepalive = co_await next();
    CHECK(keepalive.has("keepalive"));  // nothing else came
    connection.close();
  }(site));
}

TEST_CASE("a stream's errors come in its last envelope, with status 200") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    const auto watch = [&](std::string body) -> asio::awaitable<std::string> {
      const auto response = co_await site.request(
          site.head("POST", "/filesystem.Filesystem/WatchDir", "application/connect+json"), std::move(body));
      CHECK(response.status == 200);
      REQUIRE(response.body.size() > 5);
      CHECK(response.body[0] == 2);
      co_return JsonObject::parse(response.body.substr(5))
          .value()
          .object("error")
          .value()
          .string("code")
          .value();
    };
    co_await expect(watch(encode_envelope(0, R"({"path":"none"})")), "not_found");
    co_await expect(watch(encode_envelope(compressed_flag, "x")), "invalid_argument");
    co_await expect(watch(encode_envelope(0, "{}") + encode_envelope(0, "{}")), "invalid_argument");
    co_await expect(watch(""), "invalid_argument");
    co_await expect(watch(encode_envelope(0, "{}").substr(0, 6)), "invalid_argument");
    co_await expect(watch(std::string("\0\x7f\xff\xff\xff", 5)), "resource_exhausted");
  }(site));
}

TEST_CASE("files are read whole, in part and by their head") {
  Site site;
  site.write("a \"b\".txt", "0123456789");
  std::filesystem::create_directory(site.directory + "/d");
  site.run([](Site& site) -> asio::awaitable<void> {
    auto head = site.head("GET", "/files?path=a%20%22b%22.txt");
    auto response = co_await site.request(head, "");
    CHECK(response.status == 200);
    CHECK(response.body == "0123456789");
    CHECK(response.headers.get("Content-Type") == "application/octet-stream");
    CHECK(response.headers.get("Content-Disposition") == R"(inline; filename="a \"b\".txt")");
    CHECK(response.headers.get("Vary") == "Accept-Encoding");
    head.headers.add("Range", "bytes=2-4");
    response = co_await site.request(head, "");
    CHECK(response.status == 206);
    CHECK(response.body == "234");
    CHECK(response.headers.get("Content-Range") == "bytes 2-4/10");
    head.headers.set("Range", "bytes=10-");
    response = co_await site.request(head, "");
    CHECK(response.status == 416);
    CHECK(response.headers.get("Content-Range") == "bytes */10");
    response = co_await site.request(site.head("GET", "/files?path=none"), "");
    CHECK(response.status == 404);
    CHECK(response.body ==
          "{\"code\":404,\"message\":\"path '" + site.directory + "/none' does not exist\"}");
    response = co_await site.request(site.head("GET", "/files?path=d"), "");
    CHECK(response.status == 400);
    CHECK(response.body.find("is a directory") != std::string::npos);
    response = co_await site.request(site.head("GET", "/files?path=d&username=who"), "");
    CHECK(response.status == 401);
    response = co_await site.request(site.head("GET", "/files?path=/proc/self/status"), "");
    CHECK(response.body.find("VmRSS") != std::string::npos);
    response = co_await site.request(site.head("DELETE", "/files?path=d"), "");
    CHECK(response.status == 405);
  }(site));
}

TEST_CASE("files are written from multipart, raw and gzip bodies") {
  Site site;
  site.write("kept", "something longer");
  std::filesystem::create_hard_link(site.directory + "/kept", site.directory + "/other-name");
  site.run([](Site& site) -> asio::awaitable<void> {
    const std::string type = "multipart/form-data; boundary=xyz";
    auto response = co_await site.request(site.head("POST", "/files", type),
                                          part("new/dir/a.txt", "A\r\n") + part("kept", "K") + "--xyz--\r\n");
    CHECK(response.status == 200);
    CHECK(response.body == "[{\"path\":\"" + site.directory +
                               "/new/dir/a.txt\",\"name\":\"a.txt\",\"type\":\"file\"}," + "{\"path\":\"" +
                               site.directory + "/kept\",\"name\":\"kept\",\"type\":\"file\"}]");
    CHECK(site.read("new/dir/a.txt") == "A\r\n");
    CHECK(site.read("other-name") == "K");
    CHECK((std::filesystem::status(site.directory + "/new").permissions() & std::filesystem::perms::mask) ==
          static_cast<std::filesystem::perms>(0755));
    CHECK((std::filesystem::status(site.directory + "/new/dir/a.txt").permissions() &
           std::filesystem::perms::mask) == static_cast<std::filesystem::perms>(0644));

    response =
        co_await site.request(site.head("POST", "/files", type), part("x", "1") + part("x", "2") + "--xyz--");
    CHECK(response.status == 400);
    CHECK(site.read("x") == "1");
    response = co_await site.request(site.head("POST", "/files", type), part("y", "cut"));
    CHECK(response.status == 400);
    response = co_await site.request(site.head("POST", "/files?path=new", "application/octet-stream"), "z");
    CHECK(response.status == 400);
    response = co_await site.request(site.head("POST", "/files", "application/octet-stream"), "z");
    CHECK(response.status == 400);
    response =
        co_await site.request(site.head("POST", "/files?path=/dev/null/x", "application/octet-stream"), "z");
    CHECK(response.status == 400);
    response =
        co_await site.request(site.head("POST", "/files?path=/dev/full", "application/octet-stream"), "z");
    CHECK(response.status == 400);  // a device
    response = co_await site.request(site.head("POST", "/files?path=empty", "application/octet-stream"), "");
    CHECK(response.status == 200);
    CHECK(site.read("empty").empty());

    const std::string text(300'000, 'g');
    auto head = site.head("POST", "/files?path=unzipped", "application/octet-stream");
    head.headers.add("Content-Encoding", "gzip");
    response = co_await site.request(head, gzip(text) + gzip("tail"));
    CHECK(response.status == 200);
    CHECK(site.read("unzipped") == text + "tail");
    response = co_await site.request(head, gzip(text).substr(0, 100));
    CHECK(response.status == 400);
    response = co_await site.request(head, "not gzip at all");
    CHECK(response.status == 400);
    head.headers.set("Content-Encoding", "br");
    response = co_await site.request(head, "x");
    CHECK(response.status == 415);
  }(site));
}

TEST_CASE("metadata of an upload replace those before") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    auto head = site.head("POST", "/files?path=m", "application/octet-stream");
    head.headers.add("X-Metadata-Author", "me");
    head.headers.add("X-Metadata-Old", "1");
    auto response = co_await site.request(head, "x");
    CHECK(response.status == 200);
    CHECK(response.body.find(R"("metadata":{"author":"me","old":"1"})") != std::string::npos);
    head.headers.remove("X-Metadata-Old");
    response = co_await site.request(head, "x");
    const auto entry = co_await site.call("Stat", R"({"path":"m"})");
    CHECK(entry.body.find(R"("metadata":{"author":"me"})") != std::string::npos);
    head.headers.set("X-Metadata-Author", std::string(5000, 'x'));
    response = co_await site.request(head, "x");
    CHECK(response.status == 400);
  }(site));
}

TEST_CASE("metadata are bounded as the file system bounds them, and the first header of a name counts") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    const auto upload = [&site](std::string name, std::string value) {
      auto head = site.head("POST", "/files?path=m", "application/octet-stream");
      head.headers.add("X-Metadata-" + name, std::move(value));
      head.headers.add("x-metadata-" + name, "second");
      return site.request(std::move(head), "x");
    };
    const std::string longest(246, 'k');
    const auto fits = co_await upload(longest, "v");
    CHECK(fits.status == 200);
    CHECK(fits.body.find("\"" + longest + "\":\"v\"") != std::string::npos);
    const auto name = co_await upload(longest + "k", "v");
    CHECK(name.status == 400);
    CHECK(name.body.find("246") != std::string::npos);
    // "user.e2b.", "a" and the value make 4096 bytes and 4097.
    const auto most = co_await upload("a", std::string(4086, 'v'));
    CHECK(most.status != 400);
    const auto more = co_await upload("a", std::string(4087, 'v'));
    CHECK(more.status == 400);
    const auto latin = co_await upload("a", "caf\xe9");
    CHECK(latin.status == 400);
  }(site));
}

TEST_CASE("a download is compressed for clients that ask for that, and only for those") {
  using enum ContentCoding;
  CHECK(choose_coding("") == identity);
  CHECK(choose_coding("gzip") == gzip);
  CHECK(choose_coding("X-GZIP") == gzip);
  CHECK(choose_coding("gzip, deflate, br") == identity);  // what libraries send by themselves
  CHECK(choose_coding("gzip, identity;q=0.5") == gzip);
  CHECK(choose_coding("gzip;q=0.5, identity") == identity);
  CHECK(choose_coding("gzip;q=0") == identity);
  CHECK(choose_coding("*") == identity);
  CHECK(choose_coding("identity;q=0, *") == gzip);
  CHECK(choose_coding("br, gzip, *;q=0") == gzip);
  CHECK(choose_coding("identity;q=0") == std::nullopt);
  CHECK(choose_coding("br, *;q=0.000") == std::nullopt);

  Site site;
  std::string content;
  for (int line = 0; line < 100'000; ++line) content += std::to_string(line) + '\n';
  site.write("f", content);
  site.run([](Site& site, const std::string& content) -> asio::awaitable<void> {
    auto head = site.head("GET", "/files?path=f");
    head.headers.add("Accept-Encoding", "gzip");
    auto response = co_await site.request(head, "");
    CHECK(response.status == 200);
    CHECK(response.headers.get("Content-Encoding") == "gzip");
    CHECK(response.headers.get("Vary") == "Accept-Encoding");
    CHECK(response.body.size() < content.size() / 2);
    CHECK(decompress(response.body, content.size()).value() == content);
    head.headers.add("Range", "bytes=0-3");
    response = co_await site.request(head, "");
    CHECK(response.status == 206);
    CHECK_FALSE(response.headers.get("Content-Encoding"));
    CHECK(response.body == "0\n1\n");
    head.headers.remove("Range");
    head.headers.set("Accept-Encoding", "br, identity;q=0");
    response = co_await site.request(head, "");
    CHECK(response.status == 406);
    CHECK(response.body ==
          R"({"code":406,"message":"no acceptable encoding found, supported: [identity, gzip]"})");
  }(site, content));
}

TEST_CASE("downloads know the conditions of RFC 9110") {
  Site site;
  site.write("f", "0123456789");
  std::filesystem::last_write_time(
      site.directory + "/f",
      std::chrono::file_clock::from_sys(std::chrono::sys_seconds(std::chrono::seconds(1767323045))));
  site.run([](Site& site) -> asio::awaitable<void> {
    const std::string date = "Fri, 02 Jan 2026 03:04:05 GMT";
    const std::string earlier = "Fri, 02 Jan 2026 03:04:04 GMT";
    const auto status = [&](std::string name, std::string value) -> asio::awaitable<std::string> {
      auto head = site.head("GET", "/files?path=f");
      head.headers.add(std::move(name), std::move(value));
      head.headers.add("Range", "bytes=2-4");
      const auto response = co_await site.request(std::move(head), "");
      if (response.status == 304) CHECK(response.body.empty());
      co_return std::to_string(response.status);
    };
    const auto plain = co_await site.request(site.head("GET", "/files?path=f"), "");
    CHECK(plain.headers.get("Last-Modified") == date);
    co_await expect(status("If-Modified-Since", date), "304");
    co_await expect(status("If-Modified-Since", earlier), "206");
    co_await expect(status("If-Modified-Since", "yesterday"), "206");
    co_await expect(status("If-Modified-Since", "Fri, 2 January 2026 3:4:5 GMT"), "206");
    co_await expect(status("If-Unmodified-Since", earlier), "412");
    co_await expect(status("If-Unmodified-Since", date), "206");
    co_await expect(status("If-Unmodified-Since", "Tue, 01 Jan 999 00:00:00 GMT"), "206");
    co_await expect(status("If-None-Match", "*"), "304");
    co_await expect(status("If-None-Match", "\"tag\""), "206");
    co_await expect(status("If-Match", "\"tag\""), "412");
    co_await expect(status("If-Match", "*"), "206");
    co_await expect(status("If-Range", date), "206");
    co_await expect(status("If-Range", earlier), "200");
  }(site));
}

TEST_CASE("a full disk is told as such") {
  Site site;
  // A file system of this test's own, which goes with its process.
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", site.directory.c_str(), "tmpfs", 0, "size=1m") != 0) {
    WARN("only root can fill a file system of its own");
    return;
  }
  site.run([](Site& site) -> asio::awaitable<void> {
    const auto full = co_await site.request(site.head("POST", "/files?path=f", "application/octet-stream"),
                                            std::string(3 << 20, 'x'));
    CHECK(full.status == 507);
    CHECK(full.body.find(R"({"code":507,"message":"not enough disk space available)") == 0);
    std::filesystem::remove(site.directory + "/f");
    site.write("half", std::string(700'000, 'h'));
    const auto composed = co_await site.request(site.head("POST", "/files/compose", "application/json"),
                                                R"({"source_paths":["half"],"destination":"whole"})");
    CHECK(composed.status == 507);
    CHECK(std::filesystem::exists(site.directory + "/half"));
    CHECK(std::distance(std::filesystem::directory_iterator(site.directory), {}) == 1);
  }(site));
  ::umount2(site.directory.c_str(), MNT_DETACH);
}

TEST_CASE("files are composed of parts, which are gone then") {
  Site site;
  site.write("1", "one ");
  site.write("2", std::string(5 << 20, '2'));
  site.write("3", " three");
  site.write("whole", "before");
  std::filesystem::create_directory(site.directory + "/d");
  site.run([](Site& site) -> asio::awaitable<void> {
    const auto compose = [&site](std::string body) {
      return site.request(site.head("POST", "/files/compose", "application/json"), std::move(body));
    };
    const auto refused = [&](std::string body, int status, std::string word) -> asio::awaitable<void> {
      const auto response = co_await compose(std::move(body));
      CHECK(response.status == status);
      INFO(response.body);
      CHECK(response.body.find(word) != std::string::npos);
      CHECK(response.body.find("\"code\":" + std::to_string(status)) != std::string::npos);
    };
    co_await refused("", 400, "JSON");
    co_await refused(R"({"source_paths":[],"destination":"whole"})", 400, "source_paths");
    co_await refused(R"({"source_paths":["1"]})", 400, "not the path of a file");
    co_await refused(R"({"source_paths":["1","none"],"destination":"whole"})", 404, "none' does not exist");
    co_await refused(R"({"source_paths":["1","d"],"destination":"whole"})", 400, "d' is a directory");
    co_await refused(R"({"source_paths":["1"],"destination":"d"})", 400, "d' is a directory");
    co_await refused(R"({"source_paths":["1","whole"],"destination":"whole"})", 400, "both a source");
    co_await refused(R"({"source_paths":["1"],"destination":"x","username":"who"})", 401, "who");
    CHECK(site.read("whole") == "before");
    CHECK(site.read("1") == "one ");

    const auto done = co_await compose(R"({"source_paths":["1","2","3"],"destination":"new/whole"})");
    CHECK(done.body ==
          "{\"path\":\"" + site.directory + "/new/whole\",\"name\":\"whole\",\"type\":\"file\"}");
    CHECK(read_file(site.directory + "/new/whole", 16 << 20).value() ==
          "one " + std::string(5 << 20, '2') + " three");
    for (const char* part : {"/1", "/2", "/3"}) CHECK_FALSE(std::filesystem::exists(site.directory + part));
    const auto over = co_await compose(R"({"source_paths":["new/whole"],"destination":"whole"})");
    CHECK(over.status == 200);
    CHECK(std::filesystem::file_size(site.directory + "/whole") == (5 << 20) + 10);
    CHECK(std::filesystem::is_empty(site.directory + "/new"));
    const auto get = co_await site.request(site.head("GET", "/files/compose"), "");
    CHECK(get.status == 405);
  }(site));
}

TEST_CASE("a large file goes up and down in bounded memory") {
  Site site;
  site.run([](Site& site) -> asio::awaitable<void> {
    constexpr std::size_t pieces = 512;
    const std::string piece(256 << 10, 'p');  // 128 MiB in all
    auto up = co_await site.connect();
    auto head = site.head("POST", "/files?path=large", "application/octet-stream");
    head.headers.add("Transfer-Encoding", "chunked");
    const long before = resident_kilobytes();
    co_await expect_ok(up.begin(head));
    for (std::size_t i = 0; i < pieces; ++i) co_await expect_ok(up.write(asio::buffer(piece)));
    co_await expect_ok(up.finish());
    const auto answer = co_await up.read_head();
    CHECK(answer.value().status == 200);
    CHECK(std::filesystem::file_size(site.directory + "/large") == pieces * piece.size());

    auto down = co_await site.connect();
    co_await expect_ok(down.begin(site.head("GET", "/files?path=large")));
    co_await expect_ok(down.finish());
    {
      const auto got = co_await down.read_head();
      CHECK(got.value().status == 200);
    }
    std::vector<char> buffer(64 << 10);
    std::size_t total = 0;
    for (;;) {
      const auto count = co_await down.read_body(asio::buffer(buffer));
      REQUIRE(count.ok());
      if (*count == 0) break;
      total += *count;
    }
    CHECK(total == pieces * piece.size());
    CHECK(resident_kilobytes() - before < 64 << 10);  // of 128 MiB, with the sanitizers' own
  }(site));
}
