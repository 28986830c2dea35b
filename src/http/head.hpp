// Message heads: collecting one from a stream, parsing it strictly, and writing one.
#pragma once

#include <cube/http.hpp>
#include <string>
#include <string_view>
#include <variant>

#include "http/body.hpp"

namespace cube::http {

/// Collects bytes up to the empty line that ends a head. Empty lines before it are skipped (RFC 9112, 2.2).
class HeadCollector {
 public:
  explicit HeadCollector(std::size_t limit) : limit_(limit) {}

  enum class State { more, complete, too_large, malformed };

  /// Takes what belongs to the head and says how much that was.
  State feed(std::string_view input, std::size_t& consumed);

  bool started() const { return !text_.empty(); }  ///< and not complete
  /// The head when it is complete: as long as this and the last input are there.
  std::string_view text() const { return whole_.empty() ? std::string_view(text_) : whole_; }

 private:
  State end_line();
  std::string_view find_whole(std::string_view input) const;

  std::size_t limit_;
  std::size_t line_start_ = 0;
  std::size_t skipped_ = 0;
  std::string text_;
  std::string_view whole_;  ///< a head that came in one piece is not copied
};

/// Why a request is refused, as the client gets it.
struct Refusal {
  int status = 400;
  std::string message;
};

struct ParsedRequest {
  RequestHead head;
  Framing framing;
  bool http_1_0 = false;
  bool keep_alive = true;
  bool expects_continue = false;
};

struct ParsedResponse {
  ResponseHead head;
  Framing framing;
  bool keep_alive = true;
};

/// `text` is a whole head with its empty line. An absolute-form target becomes origin form and its authority
/// the Host, as RFC 9112 section 3.2.2 asks.
std::variant<ParsedRequest, Refusal> parse_request_head(std::string_view text, const Limits& limits);

/// `answers_head`: the request's method was HEAD, so there is no body whatever the headers say.
Result<ParsedResponse> parse_response_head(std::string_view text, const Limits& limits, bool answers_head);

/// Refuses what would let a value break out of its line: `invalid_argument` naming the header. What came from
/// a head that was parsed is known to be well-formed.
Result<void> check_headers(const Headers& headers);

/// The head's text with its empty line; the caller has checked it and decided on framing.
std::string write_request_head(const RequestHead& head);
std::string write_response_head(const ResponseHead& head);

/// {"code":404,"message":"…"}
std::string error_body(int status, std::string_view message);

}  // namespace cube::http
