#include "multipart.hpp"

#include <algorithm>
#include <map>

#include "rpc.hpp"
#include "text.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t head_limit = 16 << 10;  // of one part
constexpr std::size_t padding_limit = 256;    // blanks after a delimiter
constexpr std::size_t boundary_limit = 70;    // RFC 2046 section 5.1.1

Error malformed(std::string message) {
  return make_error(ErrorCode::invalid_argument, "malformed multipart body: " + std::move(message));
}

/// How many bytes at the end of `text` may be the beginning of `delimiter`.
std::size_t partial_match(std::string_view text, std::string_view delimiter) {
  for (std::size_t length = std::min(text.size(), delimiter.size() - 1); length > 0; --length)
    if (delimiter.starts_with(text.substr(text.size() - length))) return length;
  return 0;
}

/// "=?utf-8?Q?na=C3=AFve?=" decoded; nothing if it is not one encoded word in UTF-8.
std::optional<std::string> decode_word(std::string_view word) {
  constexpr std::string_view prefix = "=?utf-8?";
  if (word.size() < prefix.size() + 4 || !same_ignoring_case(word.substr(0, prefix.size()), prefix) ||
      !word.ends_with("?=") || word[prefix.size() + 1] != '?')
    return std::nullopt;
  const char encoding = lower(word[prefix.size()]);
  const std::string_view text = word.substr(prefix.size() + 2, word.size() - prefix.size() - 4);
  if (encoding == 'b') return base64_decode(text);
  if (encoding != 'q') return std::nullopt;
  std::string escaped;  // quoted-printable is percent-encoding with another sign
  for (const char c : text) {
    if (c == '=')
      escaped += '%';
    else if (c == '%')
      escaped += "%25";
    else
      escaped += c == '_' ? ' ' : c;
  }
  return http::percent_decode(escaped);
}

/// Encoded words, blanks between two of them dropped; the text itself if any is not one.
std::string decode_words(const std::string& text) {
  std::string decoded;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    const auto part = decode_word(word);
    if (!part) return text;
    decoded += *part;
  }
  return decoded;
}

/// "utf-8'en'na%C3%AFve", RFC 8187
std::optional<std::string> decode_extended(std::string_view value) {
  const std::size_t language = value.find('\'');
  if (language == std::string_view::npos) return std::nullopt;
  const std::size_t text = value.find('\'', language + 1);
  if (text == std::string_view::npos || !same_ignoring_case(value.substr(0, language), "utf-8"))
    return std::nullopt;
  return http::percent_decode(value.substr(text + 1));
}

/// Takes a quoted string from the front of `rest`. A backslash that escapes neither quote nor backslash
/// stands for itself: some clients send the paths of Windows unescaped.
std::optional<std::string> take_quoted(std::string_view& rest) {
  std::string value;
  for (std::size_t i = 1; i < rest.size(); ++i) {
    if (rest[i] == '"') {
      rest.remove_prefix(i + 1);
      return value;
    }
    if (rest[i] == '\\' && i + 1 < rest.size() && (rest[i + 1] == '"' || rest[i + 1] == '\\')) ++i;
    value += rest[i];
  }
  return std::nullopt;
}

/// The parameters after a header's value, ";a=b; c=\"d\"": names in lower case, the first of each counts.
std::optional<std::map<std::string, std::string>> parse_parameters(std::string_view rest) {
  std::map<std::string, std::string> parameters;
  for (rest = trim(rest); !rest.empty(); rest = trim(rest)) {
    if (rest.front() != ';') return std::nullopt;
    rest = trim(rest.substr(1));
    if (rest.empty()) break;
    const std::size_t equals = rest.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    std::string name(trim(rest.substr(0, equals)));
    if (!is_token(name)) return std::nullopt;
    std::ranges::transform(name, name.begin(), lower);
    rest = trim(rest.substr(equals + 1));
    std::optional<std::string> value;
    if (rest.starts_with('"')) {
      value = take_quoted(rest);
    } else {
      value = std::string(trim(rest.substr(0, rest.find(';'))));
      rest.remove_prefix(std::min(rest.size(), rest.find(';')));
    }
    if (!value) return std::nullopt;
    parameters.emplace(std::move(name), std::move(*value));
  }
  return parameters;
}

}  // namespace

Result<std::string> multipart_boundary(std::string_view content_type) {
  const std::size_t semicolon = std::min(content_type.find(';'), content_type.size());
  const auto parameters = parse_parameters(content_type.substr(semicolon));
  if (!parameters || !parameters->contains("boundary"))
    return make_error(ErrorCode::invalid_argument, "the content type has no boundary");
  const std::string& text = parameters->at("boundary");
  const bool legal = std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
  if (text.empty() || text.size() > boundary_limit || !legal || text.ends_with(' '))
    return make_error(ErrorCode::invalid_argument, "the boundary in the content type is not a legal one");
  return text;
}

Result<PartHead> parse_content_disposition(std::string_view value) {
  const std::size_t semicolon = std::min(value.find(';'), value.size());
  const auto parameters = parse_parameters(value.substr(semicolon));
  if (!same_ignoring_case(trim(value.substr(0, semicolon)), "form-data") || !parameters)
    return malformed("a part's Content-Disposition is not one of form-data");
  PartHead head;
  if (const auto name = parameters->find("name"); name != parameters->end()) head.name = name->second;
  if (const auto file = parameters->find("filename"); file != parameters->end())
    head.file_name = decode_words(file->second);
  if (const auto file = parameters->find("filename*"); file != parameters->end())
    if (auto decoded = decode_extended(file->second)) head.file_name = std::move(*decoded);
  return head;
}

// The first delimiter may stand at the very beginning: the parser behaves as if a CRLF came before the body.
MultipartParser::MultipartParser(std::string boundary, MultipartHandler& handler)
    : delimiter_("\r\n--" + std::move(boundary)), handler_(handler), buffer_("\r\n") {}

Result<void> MultipartParser::feed(std::string_view bytes) {
  buffer_.erase(0, std::exchange(position_, 0));
  buffer_ += bytes;
  for (;;) {
    const auto step = this->step();
    if (!step.ok()) return step.error();
    if (*step == Step::need_more) return {};
  }
}

Result<MultipartParser::Step> MultipartParser::step() {
  switch (state_) {
    case State::preamble:
    case State::data: return skip_preamble_or_pass_data();
    case State::after_delimiter: return read_after_delimiter();
    case State::head: return read_head();
    case State::data_start: return begin_data();
    case State::complete: break;
  }
  position_ = buffer_.size();
  return Step::need_more;
}

Result<MultipartParser::Step> MultipartParser::skip_preamble_or_pass_data() {
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  const std::size_t found = rest.find(delimiter_);
  const bool at_end = found != std::string_view::npos;
  const std::string_view decided =
      rest.substr(0, at_end ? found : rest.size() - partial_match(rest, delimiter_));
  if (state_ == State::data && !decided.empty()) CUBE_TRY(handler_.part_data(decided));
  position_ += decided.size();
  if (!at_end) return Step::need_more;
  position_ += delimiter_.size();
  if (state_ == State::data) CUBE_TRY(handler_.end_part());
  state_ = State::after_delimiter;
  return Step::proceed;
}

Result<MultipartParser::Step> MultipartParser::read_after_delimiter() {
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  if (rest.size() < 2) return Step::need_more;
  if (rest.starts_with("--")) {
    state_ = State::complete;
    return Step::proceed;
  }
  const std::size_t text = rest.find_first_not_of(" \t");
  if (std::min(text, rest.size()) > padding_limit) return malformed("too many blanks after a boundary");
  if (text == std::string_view::npos || rest.size() - text < 2) return Step::need_more;
  if (rest.substr(text, 2) != "\r\n") return malformed("a boundary is followed by something else");
  position_ += text;  // the CRLF stays: with it the head's end is CRLF CRLF even if the head is empty
  state_ = State::head;
  return Step::proceed;
}

Result<MultipartParser::Step> MultipartParser::read_head() {
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  const std::size_t end = rest.find("\r\n\r\n");
  if (std::min(end, rest.size()) > head_limit) return malformed("the head of a part is too long");
  if (end == std::string_view::npos) return Step::need_more;

  PartHead head;
  for (std::string_view lines = rest.substr(0, end); !lines.empty();) {
    lines.remove_prefix(2);  // the CRLF
    const std::string_view line = lines.substr(0, lines.find("\r\n"));
    lines.remove_prefix(line.size());
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon)))
      return malformed("a part has a malformed header");
    if (!same_ignoring_case(line.substr(0, colon), "content-disposition")) continue;
    auto parsed = parse_content_disposition(trim(line.substr(colon + 1)));
    if (!parsed.ok()) return std::move(parsed).error();
    head = std::move(*parsed);
  }
  position_ += end + 4;
  state_ = State::data_start;
  CUBE_TRY(handler_.begin_part(std::move(head)));
  return Step::proceed;
}

// A part without content may leave out the CRLF of its delimiter, the head's end serves for both.
Result<MultipartParser::Step> MultipartParser::begin_data() {
  const std::string_view rest = std::string_view(buffer_).substr(position_);
  const std::string_view dashes = std::string_view(delimiter_).substr(2);
  if (rest.size() < dashes.size() && dashes.starts_with(rest)) return Step::need_more;
  state_ = State::data;
  if (!rest.starts_with(dashes)) return Step::proceed;
  position_ += dashes.size();
  CUBE_TRY(handler_.end_part());
  state_ = State::after_delimiter;
  return Step::proceed;
}

}  // namespace cube::agent
