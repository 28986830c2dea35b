// Clients that speak protobuf, and that compress. Messages are written and read by the few lines here, from
// the specification of the wire format, not by what the agent uses.
#include <cube/core.hpp>
#include <set>

#include "agent_client.hpp"
#include "gzip.hpp"
#include "protobuf_transcoder.hpp"

using namespace cube;
using namespace cube::agent;
using namespace cube::agent::test;

namespace {

std::string varint(std::uint64_t number) {
  std::string bytes;
  for (; number > 0x7f; number >>= 7) bytes += static_cast<char>((number & 0x7f) | 0x80);
  return bytes + static_cast<char>(number);
}

std::string number(std::uint32_t field, std::uint64_t value) { return varint(field << 3) + varint(value); }

std::string text(std::uint32_t field, std::string_view value) {
  return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
}

/// A message taken apart; of a field that occurs several times the last one.
struct Parts {
  std::map<std::uint32_t, std::uint64_t> numbers;
  std::map<std::uint32_t, std::string> texts;

  explicit Parts(std::string_view bytes) {
    const auto take = [&bytes] {
      std::uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        REQUIRE_FALSE(bytes.empty());
        const auto byte = static_cast<unsigned char>(bytes.front());
        bytes.remove_prefix(1);
        value |= std::uint64_t{byte & 0x7fu} << shift;
        if (byte < 0x80) return value;
      }
    };
    while (!bytes.empty()) {
      const std::uint64_t tag = take();
      const auto field = static_cast<std::uint32_t>(tag >> 3);
      const std::uint64_t value = take();
      if ((tag & 7) == 0) {
        numbers[field] = value;
        continue;
      }
      REQUIRE((tag & 7) == 2);
      REQUIRE(value <= bytes.size());
      texts[field] = bytes.substr(0, value);
      bytes.remove_prefix(value);
    }
  }
};

/// A stream's messages, and the JSON at its end.
struct Messages {
  std::vector<std::string> all;
  std::string trailer;

  explicit Messages(std::string_view body) {
    while (!body.empty()) {
      REQUIRE(body.size() >= 5);
      std::uint32_t size = 0;
      std::memcpy(&size, body.data() + 1, 4);
      size = ntohl(size);
      REQUIRE(body.size() >= 5 + size);
      const std::string payload(body.substr(5, size));
      if (body[0] == 2)
        trailer = payload;
      else
        all.push_back(payload);
      body.remove_prefix(5 + size);
    }
  }
};

std::string gzip(std::string_view text) {
  GzipWriter writer;
  writer.set_input(text, true);
  std::string packed;
  char piece[4096];
  while (const std::size_t count = writer.write(asio::buffer(piece))) packed.append(piece, count);
  return packed;
}

std::string compressed_envelope(std::string_view payload) {
  std::string envelope = enveloped(payload);
  envelope[0] = 1;
  return envelope;
}

/// StartRequest of a shell that runs the script without standard input.
std::string start_request(std::string_view script) {
  return text(1, text(1, "/bin/sh") + text(2, "-c") + text(2, script)) + number(4, 0);
}

const protobuf::Message& request_of(std::string_view path) { return *protobuf::find_method(path)->request; }
const protobuf::Message& response_of(std::string_view path) { return *protobuf::find_method(path)->response; }

std::string json_of(std::string_view path, std::string_view wire) {
  return protobuf::to_json(request_of(path), wire).value();
}

const std::string start = "/process.Process/Start";
const std::string send_signal = "/process.Process/SendSignal";
const std::string list_directory = "/filesystem.Filesystem/ListDir";

}  // namespace

TEST_CASE("requests in protobuf become the JSON that the services read") {
  CHECK(json_of(send_signal, "\x0a\x03\x08\xac\x02\x10\x09") ==
        R"({"process":{"pid":300},"signal":"SIGNAL_SIGKILL"})");
  CHECK(json_of(send_signal, number(2, 77)) == R"({"signal":77})");
  CHECK(json_of("/process.Process/List", "") == "{}");
  CHECK(json_of(start,
                text(1, text(1, "sh") + text(2, "a") + text(2, "") + text(3, text(1, "K") + text(2, "v")) +
                            text(3, text(1, "E")) + text(4, ""))) ==
        R"({"process":{"cmd":"sh","args":["a",""],"envs":{"E":"","K":"v"},"cwd":""}})");
  CHECK(json_of(start, text(2, text(1, number(1, 80) + number(2, 24))) + number(4, 0)) ==
        R"({"pty":{"size":{"cols":80,"rows":24}},"stdin":false})");
  CHECK(json_of("/process.Process/SendInput", text(2, text(1, std::string("\xff\0", 2)))) ==
        R"({"input":{"stdin":"/wA="}})");
  CHECK(json_of("/process.Process/StreamInput", text(3, "")) == R"({"keepalive":{}})");
  // What is zero and was not asked to be told apart from absent is absent.
  CHECK(json_of(list_directory, text(1, "/x") + number(2, 0)) == R"({"path":"/x"})");
}

TEST_CASE("of a field that comes twice the last counts, and messages in parts are joined") {
  CHECK(json_of(list_directory, text(1, "/a") + number(2, 1) + text(1, "/b") + number(2, 2)) ==
        R"({"path":"/b","depth":2})");
  CHECK(json_of(start, text(1, text(1, "sh") + text(2, "x")) + text(1, text(2, "y"))) ==
        R"({"process":{"cmd":"sh","args":["x","y"]}})");
  CHECK(json_of(send_signal, text(1, number(1, 5) + text(2, "tag"))) == R"({"process":{"tag":"tag"}})");
  CHECK(json_of(send_signal, text(1, text(2, "tag") + number(1, 5))) == R"({"process":{"pid":5}})");
}

TEST_CASE("fields nobody knows are skipped, of every wire type") {
  const std::string unknown = number(99, 1) + std::string("\x9d\x06", 2) + "4byt" +
                              std::string("\x99\x06", 2) + "8 bytes." + text(100, "\xff\xff");
  CHECK(json_of(list_directory, unknown + text(1, "/a") + unknown) == R"({"path":"/a"})");
  // "depth" as text and "path" as a number are other people's fields.
  CHECK(json_of(list_directory, text(2, "x") + number(1, 7)) == "{}");
}

TEST_CASE("malformed protobuf is refused") {
  const auto code = [](std::string_view wire) {
    const auto json = protobuf::to_json(request_of(start), wire);
    REQUIRE_FALSE(json.ok());
    return json.error().code;
  };
  for (const std::string& wire :
       {std::string("\x0a"), std::string("\x0a\x05sh"), std::string("\x0a\xff\xff\xff\xff\x0f"),
        std::string("\0", 1), std::string("\x0b\x0c"), std::string(11, '\xff'), std::string("\x0e"),
        text(1, "\x0a\x05sh"), text(3, "\xff"), text(1, text(3, text(1, "\xc0\x80"))),
        std::string("\x20\x80", 2)})
    CHECK(code(wire) == ErrorCode::invalid_argument);
  std::string many;
  for (std::size_t i = 0; i <= protobuf::element_limit; ++i) many += text(2, "");
  CHECK(code(text(1, many)) == ErrorCode::invalid_argument);
}

TEST_CASE("answers become protobuf") {
  const auto event = [](std::string_view json) {
    return protobuf::from_json(response_of(start), R"({"event":)" + std::string(json) + "}").value();
  };
  CHECK(event(R"({"start":{"pid":5}})") == text(1, text(1, number(1, 5))));
  CHECK(event(R"({"data":{"stderr":"/wA="}})") == text(1, text(2, text(2, std::string("\xff\0", 2)))));
  CHECK(event(R"({"data":{"pty":""}})") == text(1, text(2, text(3, ""))));
  CHECK(event(R"({"end":{"exitCode":0,"exited":true,"status":"exit status 0"}})") ==
        text(1, text(3, number(2, 1) + text(3, "exit status 0"))));
  CHECK(event(R"({"end":{"exitCode":-1,"exited":false,"status":"s","error":""}})") ==
        text(1, text(3, number(1, 1) + text(3, "s") + text(4, ""))));  // sint32: -1 is 1
  CHECK(event(R"({"keepalive":{}})") == text(1, text(4, "")));

  const std::string entry =
      protobuf::from_json(response_of("/filesystem.Filesystem/Stat"), R"({"entry":{"name":"f",
      "type":"FILE_TYPE_DIRECTORY","size":"12345678901","mode":493,"modifiedTime":"2026-01-02T03:04:05.000000678Z",
      "symlinkTarget":"/g","metadata":{"a":"b"},"isSymlink":true}})")
          .value();
  CHECK(entry == text(1, text(1, "f") + number(2, 2) + number(4, 12345678901) + number(5, 493) +
                             text(9, number(1, 1767323045) + number(2, 678)) + text(10, "/g") +
                             text(11, text(1, "a") + text(2, "b")) + number(12, 1)));
}

TEST_CASE("an answer that does not fit its message is not sent as less than it is") {
  for (const char* json : {R"({"event":{"start":{"pid":5,"more":1}}})", R"({"event":{"start":{"pid":-1}}})",
                           R"({"event":{"start":[]}})", R"({"event":{"data":{"stdout":"?"}}})", "[]", "{"}) {
    const auto wire = protobuf::from_json(response_of(start), json);
    REQUIRE_FALSE(wire.ok());
    CHECK(wire.error().code == ErrorCode::internal);
  }
}

TEST_CASE("no field of a message has the number or the name of another") {
  CHECK(protobuf::all_methods().size() == 17);
  for (const auto& method : protobuf::all_methods())
    for (const protobuf::Message* message : {method.request, method.response}) {
      std::set<std::uint32_t> numbers;
      std::set<std::string_view> names;
      for (const protobuf::Field& field : message->fields) {
        numbers.insert(field.number);
        names.insert(field.name);
        CHECK((field.kind == protobuf::Kind::message) == (field.message != nullptr));
      }
      CHECK(numbers.size() == message->fields.size());
      CHECK(names.size() == message->fields.size());
    }
}

TEST_CASE("moments are written and read as RFC 3339 has them") {
  const auto seconds = [](std::string_view text) { return parse_rfc3339(text).value().tv_sec; };
  CHECK(rfc3339({0, 5}) == "1970-01-01T00:00:00.000000005Z");
  CHECK(rfc3339({-62135596800, 0}) == "0001-01-01T00:00:00.000000000Z");
  CHECK(rfc3339({INT64_MAX, 0}).starts_with("9999-12-31"));
  CHECK(seconds("2026-01-02T03:04:05Z") == 1767323045);
  CHECK(seconds("2026-01-02T05:04:05.5+02:00") == 1767323045);
  CHECK(parse_rfc3339("2026-01-02T03:04:05.1234567899Z").value().tv_nsec == 123456789);
  for (const char* text :
       {"", "2026-01-02", "2026-02-30T00:00:00Z", "2026-01-02T24:00:00Z", "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.Z", "2026-01-02T03:04:05Zx", "0001-01-01T00:00:00+01:00"})
    CHECK_FALSE(parse_rfc3339(text));
}

TEST_CASE("a client that speaks protobuf runs a command") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto response =
        co_await guest.request(guest.port, "POST", start, "application/connect+proto",
                               enveloped(start_request(R"(printf '\377\000'; echo no >&2; exit 3)")));
    CHECK(response.status == 200);
    CHECK(response.headers.get("Content-Type") == "application/connect+proto");
    const Messages messages(response.body);
    CHECK(messages.trailer == "{}");
    REQUIRE(messages.all.size() == 4);
    std::vector<Parts> events;
    for (const std::string& message : messages.all) events.emplace_back(Parts(message).texts.at(1));
    CHECK(Parts(events[0].texts.at(1)).numbers.at(1) > 1);
    std::string out, err;
    for (std::size_t i = 1; i < 3; ++i) {
      const Parts data(events[i].texts.at(2));
      if (data.texts.contains(1)) out += data.texts.at(1);
      if (data.texts.contains(2)) err += data.texts.at(2);
    }
    CHECK(out == std::string("\377\0", 2));
    CHECK(err == "no\n");
    const Parts end(events[3].texts.at(3));
    CHECK(end.numbers.at(1) == 6);  // sint32: 3 is 6
    CHECK(end.numbers.at(2) == 1);
    CHECK(end.texts.at(3) == "exit status 3");
    CHECK(end.texts.at(4) == "exit status 3");
  }(guest));
}

TEST_CASE("protobuf and JSON meet at one process") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open("Start", R"({"process":{"cmd":"cat"},"tag":"c"})");
    co_await stream->step();
    const std::string chosen = text(1, number(1, static_cast<std::uint64_t>(stream->story.pid)));
    const auto call = [&guest](std::string method, std::string message) {
      return guest.request(guest.port, "POST", "/process.Process/" + method, "application/proto",
                           std::move(message));
    };
    const auto listed = co_await call("List", "");
    CHECK(listed.headers.get("Content-Type") == "application/proto");
    const Parts process(Parts(listed.body).texts.at(1));
    CHECK(process.numbers.at(2) == static_cast<std::uint64_t>(stream->story.pid));
    CHECK(process.texts.at(3) == "c");
    CHECK(Parts(process.texts.at(1)).texts.at(1) == "cat");

    const auto sent = co_await call("SendInput", text(1, text(2, "c")) + text(2, text(1, "one ")));
    CHECK(sent.status == 200);
    CHECK(sent.body.empty());
    const std::string pieces =
        enveloped(text(1, chosen)) + enveloped(text(3, "")) + enveloped(text(2, text(2, text(1, "two "))));
    const auto streamed = co_await guest.request(guest.port, "POST", "/process.Process/StreamInput",
                                                 "application/connect+proto", pieces);
    const Messages answer(streamed.body);
    REQUIRE(answer.all.size() == 1);
    CHECK(answer.all.front().empty());
    CHECK(answer.trailer == "{}");
    co_await stream->read_until_output("one two ");
    CHECK(stream->story.out == "one two ");
    co_await expect_status(call("CloseStdin", chosen), 200);
    co_await stream->read_to_end();
    CHECK(stream->story.exit_code == 0);

    // Errors are JSON in either codec.
    const auto gone = co_await call("SendSignal", chosen + number(2, 9));
    CHECK(gone.status == 404);
    CHECK(gone.headers.get("Content-Type") == "application/json");
    CHECK(gone.body.find(R"("code":"not_found")") != std::string::npos);
    co_await expect_status(call("SendSignal", "\x0a"), 400);
    const auto refused =
        co_await guest.request(guest.port, "POST", start, "application/connect+proto", enveloped("\x0a"));
    const Messages malformed(refused.body);
    CHECK(malformed.trailer.find(R"("code":"invalid_argument")") != std::string::npos);
    co_await expect_status(guest.request(guest.port, "POST", start, "application/proto", ""), 415);
    co_await expect_status(
        guest.request(guest.port, "POST", "/process.Process/List", "application/connect+proto", ""), 415);
  }(guest));
}

TEST_CASE("files are listed and watched in protobuf") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto call = [&guest](std::string method, std::string message) {
      return guest.request(guest.port, "POST", "/filesystem.Filesystem/" + method, "application/proto",
                           std::move(message));
    };
    const auto listed = co_await call("ListDir", text(1, "/") + number(2, 1));
    CHECK(listed.status == 200);
    const Parts last(Parts(listed.body).texts.at(1));
    CHECK(last.texts.at(3).starts_with("/"));
    CHECK(Parts(last.texts.at(9)).numbers.at(1) > 1'000'000'000);
    const auto etc = co_await call("Stat", text(1, "/etc"));
    const Parts entry(Parts(etc.body).texts.at(1));
    CHECK(entry.texts.at(1) == "etc");
    CHECK(entry.numbers.at(2) == 2);
    CHECK(entry.numbers.at(5) == 0755);
    CHECK(entry.texts.at(7) == "root");

    const auto created = co_await call("CreateWatcher", text(1, "/tmp"));
    const std::string id = Parts(created.body).texts.at(1);
    CHECK(id.starts_with("w"));
    co_await expect_status(call("GetWatcherEvents", text(1, id)), 200);
    co_await expect_status(call("RemoveWatcher", text(1, id)), 200);
    co_await expect_status(call("RemoveWatcher", text(1, id)), 404);
  }(guest));
}

TEST_CASE("requests may be compressed") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open("Start", R"({"process":{"cmd":"cat"}})");
    co_await stream->step();
    const std::string input = selector(stream->story.pid, R"(,"input":{"stdin":"aGk="})");
    guest.headers = field("Content-Encoding", "gzip");
    const auto sent = co_await guest.call("SendInput", gzip(input));
    CHECK(sent.status == 200);
    CHECK_FALSE(sent.headers.get("Content-Encoding"));
    co_await expect_status(guest.call("SendInput", input), 400);                      // is not what it says
    co_await expect_status(guest.call("SendInput", gzip(input).substr(0, 20)), 400);  // ends too early
    co_await expect_status(guest.call("SendInput", gzip(input) + "x"), 400);
    const auto bomb = co_await guest.call("SendInput", gzip(std::string(17 << 20, ' ')));
    CHECK(bomb.status == 429);
    CHECK(bomb.body.find("resource_exhausted") != std::string::npos);
    guest.headers = field("Content-Encoding", "br");
    const auto unknown = co_await guest.call("List", "{}");
    CHECK(unknown.status == 415);
    CHECK(unknown.headers.get("Accept-Encoding") == "gzip, identity");
    CHECK(unknown.body.find(R"("code":"unimplemented")") != std::string::npos);
    co_await stream->read_until_output("hi");
    CHECK(stream->story.out == "hi");
  }(guest));
}

TEST_CASE("messages of streams may be compressed, each by itself") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open("Start", R"({"process":{"cmd":"cat"}})");
    co_await stream->step();
    const std::string selects = enveloped(R"({"start":)" + selector(stream->story.pid) + "}");
    const std::string one = R"({"data":{"input":{"stdin":"b25l"}}})";
    const auto send = [&](std::string encoding, std::string more) -> asio::awaitable<std::string> {
      guest.headers = field("Connect-Content-Encoding", std::move(encoding));
      const auto response = co_await guest.request(guest.port, "POST", "/process.Process/StreamInput",
                                                   "application/connect+json", selects + more);
      CHECK(response.status == 200);
      co_return Messages(response.body).trailer;
    };
    const std::string mixed = co_await send("gzip", compressed_envelope(gzip(one)) + enveloped(one));
    CHECK(mixed == "{}");
    co_await stream->read_until_output("oneone");
    const std::string unannounced = co_await send("identity", compressed_envelope(gzip(one)));
    CHECK(unannounced.find(R"("code":"invalid_argument")") != std::string::npos);
    const std::string broken = co_await send("gzip", compressed_envelope("not gzip"));
    CHECK(broken.find(R"("code":"invalid_argument")") != std::string::npos);
    const std::string bomb = co_await send("gzip", compressed_envelope(gzip(std::string(5 << 20, ' '))));
    CHECK(bomb.find(R"("code":"resource_exhausted")") != std::string::npos);
    const std::string unknown = co_await send("zstd", enveloped(one));
    CHECK(unknown.find(R"("code":"unimplemented")") != std::string::npos);
    CHECK(stream->story.out == "oneone");
  }(guest));
}
