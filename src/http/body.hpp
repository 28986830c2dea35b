// BodyReader: finds the body's bytes, and its end, in what arrives on a connection.
#pragma once

#include <asio/buffer.hpp>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cube::http {

/// How a message says where its body ends (RFC 9112 section 6.3).
struct Framing {
  enum class Kind { none, length, chunked, until_end };
  Kind kind = Kind::none;
  std::uint64_t length = 0;  ///< Kind::length
};

class BodyReader {
 public:
  BodyReader() = default;
  explicit BodyReader(Framing framing);

  struct Step {
    std::size_t consumed = 0;  ///< of the input
    std::size_t produced = 0;  ///< in the output
  };

  /// Copies body bytes from `input` to `output`; stops when either is used up, at the end or at an error.
  Step read(std::string_view input, asio::mutable_buffer output);

  /// How much of the input is body, of which that much now counts as read; 0 if there is framing to be taken
  /// off first.
  std::size_t take(std::string_view input);

  /// So much of what was announced has gone by another way.
  void skip(std::uint64_t count);

  /// The peer's stream ended. True if the body may end there.
  bool end_of_stream();

  bool complete() const { return state_ == State::complete; }
  bool malformed() const { return state_ == State::malformed; }

  /// Body bytes still to come as far as they are announced.
  std::uint64_t announced() const { return remaining_; }

 private:
  // Chunked (RFC 9112 section 7.1): size [;extension] CRLF data CRLF … 0 CRLF trailers CRLF.
  enum class State {
    data,  ///< of a length, or until the end
    chunk_size_first,
    chunk_size,
    chunk_extension,
    chunk_size_lf,
    chunk_data,
    chunk_data_cr,
    chunk_data_lf,
    trailer_first,
    trailer,
    trailer_lf,
    end_lf,
    complete,
    malformed,
  };

  void step_framing(char c);
  void add_size_digit(char c);

  State state_ = State::complete;
  Framing::Kind kind_ = Framing::Kind::none;
  std::uint64_t remaining_ = 0;
  std::size_t overhead_ = 0;  ///< framing bytes since the last body byte
};

}  // namespace cube::http
