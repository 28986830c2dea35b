// Heads of HTTP/2 as handlers, and guests behind the proxy, see them.
#include "http/http2_head.hpp"

#include <catch2/catch.hpp>

#include "http/text.hpp"
#include "proxy/headers.hpp"

using namespace cube;
using namespace cube::http;

namespace {

Http2Fields request(Http2Fields more = {}) {
  Http2Fields fields{
      {":method", "GET"}, {":scheme", "https"}, {":authority", "a.test:3000"}, {":path", "/p?q=1"}};
  fields.insert(fields.end(), more.begin(), more.end());
  return fields;
}

Http2Fields with(std::string name, std::string value) {
  Http2Fields fields = request();
  for (auto& field : fields)
    if (field.first == name) {
      field.second = std::move(value);
      return fields;
    }
  fields.emplace_back(std::move(name), std::move(value));
  return fields;
}

Http2Fields without(std::string_view name) {
  Http2Fields fields = request();
  std::erase_if(fields, [&](const auto& field) { return field.first == name; });
  return fields;
}

ParsedRequest accepted(Http2Fields fields, bool has_body = false) {
  auto head = make_request_head(std::move(fields), has_body);
  if (const auto* refusal = std::get_if<Refusal>(&head)) FAIL(refusal->message);
  return std::get<ParsedRequest>(std::move(head));
}

int status_of(Http2Fields fields, bool has_body = false) {
  const auto head = make_request_head(std::move(fields), has_body);
  const auto* refusal = std::get_if<Refusal>(&head);
  return refusal != nullptr ? refusal->status : 200;
}

}  // namespace

TEST_CASE("a request looks like one of HTTP/1.1") {
  const ParsedRequest parsed = accepted(request({{"x-name", " value "}}));
  CHECK(parsed.head.method == "GET");
  CHECK(parsed.head.target == "/p?q=1");
  CHECK(parsed.head.headers.get("Host") == "a.test:3000");
  CHECK(parsed.head.headers.get("X-Name") == "value");
  CHECK(parsed.head.headers.fields().size() == 2);
  CHECK(parsed.framing.kind == Framing::Kind::none);
}

TEST_CASE("bodies without a length are chunked behind the proxy, others keep their length") {
  const auto forwarded = [](const ParsedRequest& parsed) {
    return proxy::forwarded_request(parsed.head, parsed.head.target, false).headers;
  };
  const Headers unknown = forwarded(accepted(with(":method", "POST"), true));
  CHECK(unknown.get("Transfer-Encoding") == "chunked");
  CHECK_FALSE(unknown.get("Content-Length"));

  Http2Fields fields = with(":method", "POST");
  fields.emplace_back("content-length", "7");
  const ParsedRequest known = accepted(fields, true);
  CHECK(known.framing.length == 7);
  CHECK(forwarded(known).get("Content-Length") == "7");
  CHECK_FALSE(forwarded(known).get("Transfer-Encoding"));

  CHECK(forwarded(accepted(with(":method", "POST"))).get("Content-Length") == "0");
  CHECK_FALSE(forwarded(accepted(request())).get("Content-Length"));
}

TEST_CASE("what is between the client and us goes no further") {
  const ParsedRequest parsed = accepted(request({{"te", "trailers"}, {"expect", "100-continue"}}), true);
  CHECK(parsed.expects_continue);
  CHECK_FALSE(parsed.head.headers.get("TE"));
  const auto forwarded = proxy::forwarded_request(parsed.head, parsed.head.target, false);
  for (const auto& [name, value] : forwarded.headers.fields()) {
    CHECK_FALSE(name.starts_with(':'));
    CHECK_FALSE(name == "expect");
  }
}

TEST_CASE("the crumbs of a cookie become one") {
  const ParsedRequest parsed = accepted(request({{"cookie", "a=b"}, {"x", "y"}, {"cookie", "c=d"}}));
  CHECK(parsed.head.headers.get("Cookie") == "a=b; c=d");
}

TEST_CASE("a Host may stand for the authority or agree with it, not contradict it") {
  Http2Fields fields = without(":authority");
  CHECK(status_of(fields) == 400);
  fields.emplace_back("host", "b.test");
  CHECK(accepted(fields).head.headers.get("Host") == "b.test");
  fields.emplace_back("host", "b.test");
  CHECK(status_of(fields) == 400);
  const ParsedRequest agreeing = accepted(with("host", "A.TEST:3000"));
  CHECK(agreeing.head.headers.get("Host") == "a.test:3000");
  CHECK(agreeing.head.headers.fields().size() == 1);
  CHECK(status_of(with("host", "b.test")) == 400);
}

TEST_CASE("pseudo-header fields that are missing, twice, late, unknown or malformed are refused") {
  for (const char* name : {":method", ":scheme", ":path"}) CHECK(status_of(without(name)) == 400);
  for (const auto& [name, value] : request()) {
    Http2Fields twice = request();
    twice.insert(twice.begin(), {name, value});
    CHECK(status_of(twice) == 400);
  }
  CHECK(status_of(request({{":path", "/late"}})) == 400);
  Http2Fields late = without(":path");
  late.emplace_back("a", "b");
  late.emplace_back(":path", "/");
  CHECK(status_of(late) == 400);
  CHECK(status_of(with(":status", "200")) == 400);
  CHECK(status_of(with(":protocol", "websocket")) == 400);

  for (const char* path : {"", "p", "/a b", "/a\r\nX: y", "/\x01", "/\xc3\xa9", "http://b/", "*", "//\x7f"})
    CHECK(status_of(with(":path", path)) == 400);
  for (const char* method : {"", "G T", "GET\r\n", "GE:T", "G\xc3"})
    CHECK(status_of(with(":method", method)) == 400);
  for (const char* scheme : {"", "ftp", "https\n"}) CHECK(status_of(with(":scheme", scheme)) == 400);
  for (const char* host : {"a b", "a\r\nX: y", "user@a.test", "a/b", "a?b", "a,b", "a\tb"})
    CHECK(status_of(with(":authority", host)) == 400);
  CHECK(status_of(with(":path", std::string("/a\0b", 4))) == 400);

  Http2Fields options = with(":method", "OPTIONS");
  options[3].second = std::string("*");
  CHECK(accepted(options).head.target == "*");
}

TEST_CASE("CONNECT is refused") {
  CHECK(status_of(with(":method", "CONNECT")) == 501);
  CHECK(status_of({{":method", "CONNECT"}, {":authority", "a.test:443"}}) == 501);
}

TEST_CASE("header fields that HTTP/1.1 could read as something else are refused") {
  for (const char* name : {"", "Upper", "a b", "a:b", "a\r\nb", "a\xc3", "a\x01", "(x)"})
    CHECK(status_of(with(name, "v")) == 400);
  for (const char* value : {"a\r\nX: y", "a\nb", "a\rb", "\x01", "\x7f"})
    CHECK(status_of(with("x", value)) == 400);
  CHECK(status_of(with("x", std::string("a\0b", 3))) == 400);
  CHECK(status_of(with("x", "caf\xc3\xa9")) == 200);
  for (const char* name : {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
    CHECK(status_of(with(name, "x"), true) == 400);
  CHECK(status_of(with("te", "gzip")) == 400);
}

TEST_CASE("a Content-Length must be one number that the body agrees with") {
  for (const char* length : {"", "-1", "+1", "0x10", "1,1", "1 1", "one"})
    CHECK(status_of(with("content-length", length), true) == 400);
  CHECK(status_of(with("content-length", "99999999999999999999"), true) == 413);
  CHECK(status_of(with("content-length", "5"), false) == 400);
  CHECK(status_of(request({{"content-length", "5"}, {"content-length", "5"}}), true) == 400);
}

TEST_CASE("a response goes out in lower case, without what is about the connection") {
  ResponseHead head{200,
                    {{"Content-Type", "text/plain"},
                     {"Connection", "close, X-Hop"},
                     {"X-Hop", "1"},
                     {"Keep-Alive", "5"},
                     {"Transfer-Encoding", "chunked"},
                     {"Upgrade", "x"},
                     {"Set-Cookie", " a=b"},
                     {"Set-Cookie", "c=d"}}};
  const Http2Fields expected{
      {":status", "200"}, {"content-type", "text/plain"}, {"set-cookie", "a=b"}, {"set-cookie", "c=d"}};
  CHECK(make_response_fields(head) == expected);
}
