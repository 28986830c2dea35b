// The agent's parsers and encodings, without a network.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <ctime>
#include <cube/core.hpp>

#include "byte_range.hpp"
#include "connect_stream.hpp"
#include "entry.hpp"
#include "gzip.hpp"
#include "multipart.hpp"
#include "services.hpp"

using namespace cube;
using namespace cube::agent;

namespace {

/// Writes down what a body was found to hold: "file(a.txt)[content]".
class Recorder : public MultipartHandler {
 public:
  Result<void> begin_part(PartHead head) override {
    text += head.name + '(' + head.file_name.value_or("-") + ")[";
    return {};
  }
  Result<void> part_data(std::string_view bytes) override {
    text += bytes;
    return {};
  }
  Result<void> end_part() override {
    text += ']';
    return {};
  }
  std::string text;
};

/// What a body holds if it arrives in two pieces; "error" if it is refused, "unfinished" if it lacks its end.
std::string parse_multipart(const std::string& body, std::size_t split, const std::string& boundary = "b") {
  Recorder recorder;
  MultipartParser parser(boundary, recorder);
  if (!parser.feed(std::string_view(body).substr(0, split)).ok()) return "error";
  if (!parser.feed(std::string_view(body).substr(split)).ok()) return "error";
  return parser.complete() ? recorder.text : "unfinished";
}

http::RequestHead files_request(const std::string& method, const std::string& query) {
  http::RequestHead head;
  head.method = method;
  head.target = "/files?" + query;
  return head;
}

}  // namespace

TEST_CASE("envelopes are found however the bytes are split") {
  const std::string bytes =
      encode_envelope(0, "{\"a\":1}") + encode_envelope(0, "") + encode_envelope(end_stream_flag, "{}");
  for (std::size_t split = 0; split <= bytes.size(); ++split) {
    EnvelopeParser parser;
    std::vector<Envelope> found;
    for (const auto piece :
         {std::string_view(bytes).substr(0, split), std::string_view(bytes).substr(split)}) {
      parser.append(piece);
      for (auto next = parser.next(); next.value(); next = parser.next()) found.push_back(**next);
    }
    REQUIRE(found.size() == 3);
    CHECK(found[0].payload == "{\"a\":1}");
    CHECK(found[1].payload.empty());
    CHECK(found[2].flags == end_stream_flag);
    CHECK(parser.empty());
  }
}

TEST_CASE("an envelope over the limit is refused from its header alone") {
  EnvelopeParser parser;
  parser.append(std::string("\0\xff\xff\xff\xff", 5));
  CHECK(parser.next().error().code == ErrorCode::resource_exhausted);
}

TEST_CASE("errors have Connect's names and statuses") {
  CHECK(error_json(make_error(ErrorCode::not_found, "gone \"x\"")) ==
        R"({"code":"not_found","message":"gone \"x\""})");
  CHECK(end_stream_json({}) == "{}");
  CHECK(end_stream_json(make_error(ErrorCode::cancelled, "m")) ==
        R"({"error":{"code":"canceled","message":"m"}})");
  CHECK(error_json(make_error(ErrorCode::conflict, "")).find("aborted") != std::string::npos);
  CHECK(http_status(ErrorCode::not_found) == 404);
  CHECK(http_status(ErrorCode::invalid_argument) == 400);
  CHECK(http_status(ErrorCode::unauthenticated) == 401);
  CHECK(http_status(ErrorCode::already_exists) == 409);
  CHECK(http_status(ErrorCode::resource_exhausted) == 429);
  CHECK(http_status(ErrorCode::cancelled) == 499);
  CHECK(http_status(ErrorCode::unimplemented) == 501);
}

TEST_CASE("members of JSON objects are read as proto3 JSON has them") {
  const auto object =
      JsonObject::parse(
          R"({"s":"x","b":true,"i":"-9007199254740993","n":5,"z":null,"r":7.0,"o":{"k":1},"l":["a","b"],"m":{"a":"1"},"y":"aGk","include_entry":true})")
          .value();
  CHECK(object.string("s").value() == "x");
  CHECK(object.string("absent").value().empty());
  CHECK(object.boolean("b").value());
  CHECK(object.boolean("z", true).value());
  CHECK_FALSE(object.has("z"));
  CHECK(object.integer("i").value() == -9007199254740993);
  CHECK(object.integer("n").value() == 5);
  CHECK(object.integer("r").value() == 7);
  CHECK(object.object("o").value().integer("k").value() == 1);
  CHECK(object.object("absent").value().object("deeper").value().string("s").value().empty());
  CHECK(object.strings("l").value() == std::vector<std::string>{"a", "b"});
  CHECK(object.string_map("m").value().at("a") == "1");
  CHECK(object.bytes("y").value() == "hi");
  CHECK(object.boolean("includeEntry").value());
}

TEST_CASE("hostile JSON is refused, naming the member") {
  const auto object =
      JsonObject::parse(
          R"({"s":1,"i":"1x","f":1.5,"l":[1],"m":{"a":[]},"y":"!","o":[],"big":18446744073709551615})")
          .value();
  for (const auto& error :
       {object.string("s").error(), object.integer("i").error(), object.integer("f").error(),
        object.strings("l").error(), object.string_map("m").error(), object.bytes("y").error(),
        object.object("o").error(), object.boolean("s").error(), object.integer("big").error()}) {
    CHECK(error.code == ErrorCode::invalid_argument);
    CHECK(error.message.starts_with("field '"));
  }
  for (const std::string text : {"", "[]", "1", "{", "{\"a\":}", "{\"a\":1}x", "\xff", "{\"a\":\"\xff\"}"})
    CHECK_FALSE(JsonObject::parse(text).ok());
  CHECK_FALSE(
      JsonObject::parse("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}").ok());
}

TEST_CASE("base64 has both alphabets, with and without padding") {
  for (const auto& [plain, coded] :
       std::vector<std::pair<std::string, std::string>>{// RFC 4648 section 10
                                                        {"", ""},
                                                        {"f", "Zg=="},
                                                        {"fo", "Zm8="},
                                                        {"foo", "Zm9v"},
                                                        {"foob", "Zm9vYg=="},
                                                        {"foobar", "Zm9vYmFy"}}) {
    CHECK(base64_encode(plain) == coded);
    CHECK(base64_decode(coded) == plain);
    CHECK(base64_decode(coded.substr(0, coded.find('='))) == plain);
  }
  CHECK(base64_decode("-_8=") == base64_decode("+/8="));
  for (const auto* bad : {"Z", "Zg=", "Zg===", "Z g=", "Zm9v=", "====", "Zg==Zg=="})
    CHECK_FALSE(base64_decode(bad));
}

TEST_CASE("signatures are checked for path, operation, user, token and time") {
  Settings settings;
  CHECK(check_files_signature(files_request("GET", "path=/a"), settings).ok());  // no token: nothing to check
  settings.access_token = "secret";
  const auto sign = [](const std::string& text) {
    const auto digest = sha256(text);
    std::string coded =
        base64_encode(std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
    coded.resize(coded.find('='));
    std::string escaped;
    for (const char c : coded) escaped += c == '+' ? "%2B" : std::string(1, c);
    return "v1_" + escaped;
  };
  const auto check = [&](const std::string& method, const std::string& query) {
    return check_files_signature(files_request(method, query), settings);
  };
  const std::string read = sign("/a b:read:user:secret");
  CHECK(check("GET", "path=/a%20b&username=user&signature=" + read).ok());
  CHECK(check("HEAD", "path=/a%20b&username=user&signature=" + read).ok());
  CHECK_FALSE(check("POST", "path=/a%20b&username=user&signature=" + read).ok());
  CHECK_FALSE(check("GET", "path=/other&username=user&signature=" + read).ok());
  CHECK_FALSE(check("GET", "path=/a%20b&signature=" + read).ok());
  CHECK(check("GET", "path=/a%20b").error().code == ErrorCode::unauthenticated);

  const std::string later = std::to_string(::time(nullptr) + 60);
  CHECK(check("POST",
              "path=/a&signature=" + sign("/a:write::secret:" + later) + "&signature_expiration=" + later)
            .ok());
  CHECK_FALSE(check("POST", "path=/a&signature=" + sign("/a:write::secret:" + later)).ok());
  const std::string past = std::to_string(::time(nullptr) - 60);
  const auto expired = check(
      "POST", "path=/a&signature=" + sign("/a:write::secret:" + past) + "&signature_expiration=" + past);
  CHECK(expired.error().message == "signature is already expired");
  CHECK_FALSE(
      check("GET", "path=/a&signature=" + sign("/a:read::secret:1e9") + "&signature_expiration=1e9").ok());
}

TEST_CASE("a multipart body is understood however it is split") {
  const std::string body =
      "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nX: y\r\n\r\n"
      "line\r\n--not\r\n-\r\n--b \r\ncontent-disposition: form-data; name=other\r\n\r\n\r\n"
      "--b\r\nContent-Disposition: form-data; name=\"file\"; "
      "filename=\"d/\\\"q\\\".txt\"\r\n\r\n--b--\r\nepilogue";
  for (std::size_t split = 0; split <= body.size(); ++split)
    CHECK(parse_multipart(body, split) == "file(a.txt)[line\r\n--not\r\n-]other(-)[]file(d/\"q\".txt)[]");
  // The same, byte by byte.
  Recorder recorder;
  MultipartParser parser("b", recorder);
  for (const char c : body) REQUIRE(parser.feed(std::string_view(&c, 1)).ok());
  CHECK(recorder.text == "file(a.txt)[line\r\n--not\r\n-]other(-)[]file(d/\"q\".txt)[]");
}

TEST_CASE("hostile multipart bodies are refused or unfinished") {
  const std::string head = "--b\r\nContent-Disposition: form-data; name=file\r\n\r\n";
  CHECK(parse_multipart("", 0) == "unfinished");
  CHECK(parse_multipart(head + "data", 3) == "unfinished");
  CHECK(parse_multipart(head + "data\r\n--b-", 3) == "unfinished");
  CHECK(parse_multipart(head + "data\r\n--bx\r\n", 3) == "error");
  CHECK(parse_multipart("--b\r\nno colon\r\n\r\n", 3) == "error");
  CHECK(parse_multipart("--b\r\nContent-Disposition: attachment\r\n\r\n", 3) == "error");
  CHECK(parse_multipart("--b\r\nA: " + std::string(20'000, 'x'), 3) == "error");
  CHECK(parse_multipart("--b" + std::string(1000, ' '), 3) == "error");
  for (const std::string type : {"multipart/form-data", "multipart/form-data; boundary=",
                                 "multipart/form-data; boundary=\"", "multipart/form-data; boundary=\"a \""})
    CHECK_FALSE(multipart_boundary(type).ok());
  CHECK_FALSE(multipart_boundary("multipart/form-data; boundary=" + std::string(71, 'x')).ok());
  CHECK(multipart_boundary("Multipart/Form-Data; charset=x; BOUNDARY=\"a b\"").value() == "a b");
}

TEST_CASE("file names come quoted, encoded or extended") {
  const auto name = [](const std::string& parameters) {
    return parse_content_disposition("form-data; name=\"file\"; " + parameters).value().file_name.value();
  };
  CHECK(name("filename=\"a;b.txt\"") == "a;b.txt");
  CHECK(name("filename=plain.txt") == "plain.txt");
  CHECK(name(R"(filename="C:\dir\f.txt")") == R"(C:\dir\f.txt)");
  CHECK(name("filename=\"=?utf-8?B?w6k=?= =?UTF-8?q?_=C3=A8?=\"") == "\xc3\xa9 \xc3\xa8");
  CHECK(name("filename=\"=?broken?=\"") == "=?broken?=");
  CHECK(name("filename=\"x\"; filename*=UTF-8''%C3%A9") == "\xc3\xa9");
  CHECK_FALSE(parse_content_disposition("form-data; name=\"file").ok());
}

TEST_CASE("permissions are spelled as Go does") {
  CHECK(permission_string(S_IFREG | 0644) == "-rw-r--r--");
  CHECK(permission_string(S_IFDIR | 0755) == "drwxr-xr-x");
  CHECK(permission_string(S_IFLNK | 0777) == "Lrwxrwxrwx");
  CHECK(permission_string(S_IFDIR | S_ISVTX | 0777) == "dtrwxrwxrwx");
  CHECK(permission_string(S_IFREG | S_ISUID | S_ISGID | 0755) == "ugrwxr-xr-x");
  CHECK(permission_string(S_IFCHR | 0666) == "Dcrw-rw-rw-");
  CHECK(permission_string(S_IFBLK | 0660) == "Drw-rw----");
  CHECK(rfc3339({1767323045, 678}) == "2026-01-02T03:04:05.000000678Z");
}

TEST_CASE("a range is one of bytes, or the whole") {
  const auto choose = [](std::string_view range, std::uint64_t size = 10) {
    const RangeChoice choice = choose_range(range, size);
    if (choice.kind == RangeChoice::Kind::unsatisfiable) return std::string("416");
    return (choice.kind == RangeChoice::Kind::part ? "206 " : "200 ") + std::to_string(choice.first) + '+' +
           std::to_string(choice.length);
  };
  CHECK(choose("") == "200 0+10");
  CHECK(choose("bytes=0-0") == "206 0+1");
  CHECK(choose("bytes=3-") == "206 3+7");
  CHECK(choose("bytes=3-99") == "206 3+7");
  CHECK(choose("bytes=-4") == "206 6+4");
  CHECK(choose("bytes=-99") == "206 0+10");
  CHECK(choose("bytes=10-") == "416");
  CHECK(choose("bytes=-0") == "416");
  CHECK(choose("bytes=0-", 0) == "416");
  for (const auto* whole : {"bytes=5-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=-", "bytes=1",
                            "bytes=18446744073709551616-", "bytes=1-18446744073709551616"})
    CHECK(choose(whole) == "200 0+10");
}
