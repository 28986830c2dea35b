// MultipartParser: multipart/form-data (RFC 7578, RFC 2046 section 5.1) that arrives in any pieces.
#pragma once

#include <cube/core.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace cube::agent {

/// What a part's Content-Disposition says.
struct PartHead {
  std::string name;
  std::optional<std::string> file_name;
};

class MultipartHandler {
 public:
  virtual ~MultipartHandler() = default;
  virtual Result<void> begin_part(PartHead head) = 0;
  virtual Result<void> part_data(std::string_view bytes) = 0;
  virtual Result<void> end_part() = 0;
};

class MultipartParser {
 public:
  MultipartParser(std::string boundary, MultipartHandler& handler);

  /// `invalid_argument` for malformed input, or the handler's own error; do not feed more after an error.
  Result<void> feed(std::string_view bytes);

  /// The closing delimiter was seen; what follows it is ignored.
  bool complete() const { return state_ == State::complete; }

 private:
  enum class State { preamble, after_delimiter, head, data_start, data, complete };
  enum class Step { proceed, need_more };

  Result<Step> step();
  Result<Step> skip_preamble_or_pass_data();
  Result<Step> read_after_delimiter();
  Result<Step> read_head();
  Result<Step> begin_data();

  const std::string delimiter_;  ///< CRLF "--" boundary
  MultipartHandler& handler_;
  State state_ = State::preamble;
  std::string buffer_;        ///< one piece and what could not be decided before it
  std::size_t position_ = 0;  ///< used up to here
};

/// The boundary in a Content-Type of multipart/…; `invalid_argument` if there is none or it is not a legal
/// one.
Result<std::string> multipart_boundary(std::string_view content_type);

/// `invalid_argument` if it is not of form-data. Understands quoted strings, filename*= (RFC 8187) and
/// encoded words (RFC 2047) in UTF-8.
Result<PartHead> parse_content_disposition(std::string_view value);

}  // namespace cube::agent
