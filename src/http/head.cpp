#include "http/head.hpp"

#include <llhttp.h>

#include <array>
#include <cube/core.hpp>

#include "http/text.hpp"

namespace cube::http {
namespace {

// --- Syntax: what llhttp, loose as distributions compile it, would let pass ---------------------

// One pass checks the fields and takes them, so there is no second reading that could differ.
std::optional<Refusal> read_field_lines(std::string_view text, const Limits& limits, Headers& headers) {
  text = headers.keep(text);
  std::size_t count = 0;
  while (text != "\r\n") {
    const std::string_view line = text.substr(0, text.find("\r\n"));
    text.remove_prefix(line.size() + 2);
    if (++count > limits.header_count) return Refusal{431, "too many header fields"};
    // In a folded line, or with a blank before the colon, the name is not followed by it.
    const std::size_t colon = token_characters.length_of_first(line);
    if (colon == 0 || !line.substr(colon).starts_with(':'))
      return Refusal{400, "malformed header field name"};
    if (!is_field_value(line.substr(colon + 1)))
      return Refusal{400, "control character in a header field value"};
    headers.add_kept(line.substr(0, colon), trim(line.substr(colon + 1)));
  }
  return std::nullopt;
}

std::optional<Refusal> check_version(std::string_view version) {
  if (version == "HTTP/1.1" || version == "HTTP/1.0") return std::nullopt;
  const bool plausible = version.size() == 8 && version.starts_with("HTTP/") && version[6] == '.';
  if (plausible) return Refusal{505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
  return Refusal{400, "malformed request line"};
}

std::optional<Refusal> check_request_line(std::string_view line) {
  const std::size_t first = line.find(' ');
  const std::size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos) return Refusal{400, "malformed request line"};
  const std::string_view target = line.substr(first + 1, second - first - 1);
  const bool visible = std::ranges::all_of(target, [](char c) { return c > 0x20 && c < 0x7f; });
  if (!is_token(line.substr(0, first)) || target.empty() || !visible)
    return Refusal{400, "malformed request line"};
  return check_version(line.substr(second + 1));
}

bool is_status_line(std::string_view line) {
  if (line.size() < 12 || !line.starts_with("HTTP/1.") || (line[7] != '0' && line[7] != '1') ||
      line[8] != ' ')
    return false;
  if (line.size() > 12 && line[12] != ' ') return false;
  return line[9] >= '1' && line[9] <= '5' && parse_decimal(line.substr(9, 3)) &&
         is_field_value(line.substr(12));
}

// --- llhttp --------------------------------------------------------------------------------------

struct RequestLine {
  std::string method, target;
  bool complete = false;
};

RequestLine& of(llhttp_t* parser) { return *static_cast<RequestLine*>(parser->data); }

const llhttp_settings_t& parser_settings() {
  static const llhttp_settings_t settings = [] {
    llhttp_settings_t s;
    llhttp_settings_init(&s);
    s.on_method = [](llhttp_t* p, const char* at, std::size_t n) { return of(p).method.append(at, n), 0; };
    s.on_url = [](llhttp_t* p, const char* at, std::size_t n) { return of(p).target.append(at, n), 0; };
    s.on_headers_complete = [](llhttp_t* p) { return of(p).complete = true, static_cast<int>(HPE_PAUSED); };
    return s;
  }();
  return settings;
}

// The fields are read already: llhttp gets a head that has none.
llhttp_errno_t run_llhttp(std::string_view line, llhttp_t& parser, RequestLine& request) {
  static constexpr std::string_view end = "\r\n\r\n";
  llhttp_init(&parser, HTTP_REQUEST, &parser_settings());
  parser.data = &request;
  llhttp_errno_t error = llhttp_execute(&parser, line.data(), line.size());
  if (error == HPE_OK) error = llhttp_execute(&parser, end.data(), end.size());
  return request.complete ? HPE_OK : error;
}

Refusal refusal_of(llhttp_errno_t error, const llhttp_t& parser) {
  switch (error) {
    case HPE_INVALID_METHOD: return {501, "unknown method"};
    case HPE_INVALID_VERSION: return {505, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
    case HPE_OK: return {400, "malformed head"};
    default: return {400, parser.reason != nullptr ? parser.reason : "malformed head"};
  }
}

// --- Framing -------------------------------------------------------------------------------------

std::size_t count_of(const Headers& headers, std::string_view name) {
  return static_cast<std::size_t>(std::ranges::count_if(
      headers.fields(), [&](const auto& field) { return same_ignoring_case(field.first, name); }));
}

// Everything two parsers could read differently is refused.
std::variant<Framing, Refusal> framing_of(const Headers& headers, bool http_1_0) {
  const auto coding = headers.get("transfer-encoding");
  const auto length = headers.get("content-length");
  if (coding) {
    if (length) return Refusal{400, "both Content-Length and Transfer-Encoding"};
    if (http_1_0) return Refusal{400, "Transfer-Encoding in HTTP/1.0"};
    if (count_of(headers, "transfer-encoding") > 1) return Refusal{400, "more than one Transfer-Encoding"};
    if (!same_ignoring_case(*coding, "chunked"))
      return Refusal{501, "only the chunked transfer coding is known"};
    return Framing{Framing::Kind::chunked, 0};
  }
  if (!length) return Framing{};
  if (count_of(headers, "content-length") > 1) return Refusal{400, "more than one Content-Length"};
  const bool digits = !length->empty() && length->find_first_not_of("0123456789") == std::string_view::npos;
  if (!digits) return Refusal{400, "malformed Content-Length"};
  const auto number = parse_decimal(*length);
  if (!number) return Refusal{413, "the body is too large"};
  return Framing{Framing::Kind::length, *number};
}

bool keeps_alive(const Headers& headers, bool http_1_0) {
  if (has_token(headers, "connection", "close")) return false;
  return !http_1_0 || has_token(headers, "connection", "keep-alive");
}

// "http://host/path" to Host and "/path".
bool make_origin_form(RequestHead& head) {
  const std::size_t scheme_end = head.target.find("://");
  const std::string_view scheme =
      std::string_view(head.target).substr(0, std::min(scheme_end, head.target.size()));
  if (!same_ignoring_case(scheme, "http") && !same_ignoring_case(scheme, "https")) return false;
  const std::size_t start = scheme_end + 3;
  const std::size_t end = std::min(head.target.find_first_of("/?", start), head.target.size());
  std::string authority = head.target.substr(start, end - start);
  if (authority.empty() || authority.find('@') != std::string::npos) return false;
  std::string path = head.target.substr(end);
  if (!path.starts_with('/')) path.insert(path.begin(), '/');
  head.headers.set("Host", authority);
  head.target = std::move(path);
  return true;
}

std::optional<Refusal> check_target_and_host(ParsedRequest& request) {
  RequestHead& head = request.head;
  const std::size_t hosts = count_of(head.headers, "host");
  if (hosts > 1) return Refusal{400, "more than one Host"};
  if (hosts == 0 && !request.http_1_0) return Refusal{400, "missing Host"};
  if (head.method == "CONNECT") {
    if (request.framing.kind != Framing::Kind::none) return Refusal{400, "CONNECT with a body"};
    return std::nullopt;
  }
  if (head.target.starts_with('/') || (head.target == "*" && head.method == "OPTIONS")) return std::nullopt;
  if (make_origin_form(head)) return std::nullopt;
  return Refusal{400, "malformed request target"};
}

// Room for a body that is sent with its head.
constexpr std::size_t small_body = 256;

constexpr std::string_view crlf = "\r\n";

/// In one piece of memory, and that is made once.
std::string write_head(std::initializer_list<std::string_view> start_line, const Headers& headers) {
  std::size_t size = 2 * crlf.size();
  for (const std::string_view part : start_line) size += part.size();
  for (const auto& [name, value] : headers.fields()) size += name.size() + value.size() + 4;
  std::string text;
  text.reserve(size + small_body);
  text.resize(size);
  char* to = text.data();
  const auto put = [&to](std::string_view part) { to += part.copy(to, part.size()); };
  for (const std::string_view part : start_line) put(part);
  put(crlf);
  for (const auto& [name, value] : headers.fields()) {
    put(name);
    put(": ");
    put(value);
    put(crlf);
  }
  put(crlf);
  return text;
}

}  // namespace

HeadCollector::State HeadCollector::end_line() {
  const std::size_t length = text_.size() - line_start_;
  if (length < 2 || text_[text_.size() - 2] != '\r') return State::malformed;
  if (length > 2) {
    line_start_ = text_.size();
    return State::more;
  }
  if (line_start_ > 0) return State::complete;
  text_.clear();
  return ++skipped_ > 4 ? State::malformed : State::more;
}

/// The head that `input` begins with; empty if it is not all of it, or for a closer look.
std::string_view HeadCollector::find_whole(std::string_view input) const {
  input = input.substr(0, limit_);
  for (std::size_t line = 0;;) {
    const std::size_t newline = input.find('\n', line);
    if (newline == std::string_view::npos || newline == line || input[newline - 1] != '\r') return {};
    const bool is_empty = newline == line + 1;
    line = newline + 1;
    if (is_empty) return line > 2 ? input.substr(0, line) : std::string_view{};
  }
}

HeadCollector::State HeadCollector::feed(std::string_view input, std::size_t& consumed) {
  if (text_.empty()) {
    whole_ = find_whole(input);
    consumed = whole_.size();
    if (consumed > 0) return State::complete;
  }
  consumed = 0;
  if (text_.empty()) text_.reserve(std::min(limit_, input.size()) + 1);
  while (consumed < input.size()) {
    const std::string_view rest = input.substr(consumed);
    const std::size_t newline = rest.find('\n');
    const std::size_t count = std::min(newline == std::string_view::npos ? rest.size() : newline + 1,
                                       limit_ - std::min(limit_, text_.size()) + 1);
    text_.append(rest.substr(0, count));
    consumed += count;
    if (text_.size() > limit_) return State::too_large;
    if (text_.back() != '\n') continue;
    const State state = end_line();
    if (state != State::more) return state;
  }
  return State::more;
}

std::variant<ParsedRequest, Refusal> parse_request_head(std::string_view text, const Limits& limits) {
  const std::size_t line_end = text.find("\r\n");
  if (line_end == std::string_view::npos) return Refusal{400, "malformed request line"};
  if (auto refusal = check_request_line(text.substr(0, line_end))) return *refusal;
  ParsedRequest request;
  if (auto refusal = read_field_lines(text.substr(line_end + 2), limits, request.head.headers))
    return *refusal;

  llhttp_t parser;
  RequestLine line;
  const llhttp_errno_t error = run_llhttp(text.substr(0, line_end), parser, line);
  if (!line.complete) return refusal_of(error, parser);

  request.head.method = std::move(line.method);
  request.head.target = std::move(line.target);
  request.http_1_0 = parser.http_minor == 0;
  auto framing = framing_of(request.head.headers, request.http_1_0);
  if (auto* refusal = std::get_if<Refusal>(&framing)) return *refusal;
  request.framing = std::get<Framing>(framing);
  if (auto refusal = check_target_and_host(request)) return *refusal;
  request.keep_alive = keeps_alive(request.head.headers, request.http_1_0);
  request.expects_continue = !request.http_1_0 && has_token(request.head.headers, "expect", "100-continue");
  return request;
}

Result<ParsedResponse> parse_response_head(std::string_view text, const Limits& limits, bool answers_head) {
  const std::size_t line_end = text.find("\r\n");
  if (line_end == std::string_view::npos || !is_status_line(text.substr(0, line_end)))
    return make_error(ErrorCode::unavailable, "the answer is not HTTP/1.x");
  ParsedResponse response;
  if (auto refusal = read_field_lines(text.substr(line_end + 2), limits, response.head.headers))
    return make_error(ErrorCode::unavailable, "malformed answer: " + refusal->message);
  const bool http_1_0 = text[7] == '0';
  response.head.status = static_cast<int>(*parse_decimal(text.substr(9, 3)));
  response.keep_alive = keeps_alive(response.head.headers, http_1_0);
  const int status = response.head.status;
  if (answers_head || status < 200 || status == 204 || status == 304) return response;
  auto framing = framing_of(response.head.headers, http_1_0);
  if (auto* refusal = std::get_if<Refusal>(&framing))
    return make_error(ErrorCode::unavailable, "malformed answer: " + refusal->message);
  response.framing = std::get<Framing>(framing);
  if (response.framing.kind == Framing::Kind::none) {
    response.framing.kind = Framing::Kind::until_end;
    response.keep_alive = false;
  }
  return response;
}

Result<void> check_headers(const Headers& headers) {
  for (const Headers::Place& place : headers.places_) {
    if (place.checked) continue;
    const auto [name, value] = headers.at(place);
    if (!is_token(name))
      return make_error(ErrorCode::invalid_argument, "malformed header name", std::string(name));
    if (!is_field_value(value))
      return make_error(ErrorCode::invalid_argument, "line break or control character in a header value",
                        std::string(name));
  }
  return {};
}

std::string write_request_head(const RequestHead& head) {
  return write_head({head.method, " ", head.target, " HTTP/1.1"}, head.headers);
}

std::string write_response_head(const ResponseHead& head) {
  return write_head({"HTTP/1.1 ", std::to_string(head.status), " ", reason_phrase(head.status)},
                    head.headers);
}

std::string error_body(int status, std::string_view message) {
  JsonWriter json;
  json.begin_object().key("code").value(status).key("message").value(message).end_object();
  return json.take();
}

}  // namespace cube::http
