// gzip (RFC 1952) in pieces: GzipReader decompresses, GzipWriter compresses, each into the caller's buffer.
#pragma once

#include <zlib.h>

#include <asio/buffer.hpp>
#include <cube/core.hpp>
#include <string>
#include <string_view>

namespace cube::agent {

class GzipReader {
 public:
  GzipReader();
  ~GzipReader();
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  /// More compressed bytes, once `read` gave nothing. They must stay until then.
  void set_input(std::string_view bytes);

  /// Decompressed bytes; 0 if it takes more input. `invalid_argument` for what is not gzip.
  Result<std::size_t> read(asio::mutable_buffer out);

  /// The input so far is one or more whole gzip members.
  bool at_end() const { return at_end_; }

 private:
  z_stream stream_{};
  bool at_end_ = false;
};

/// All of `compressed`; `resource_exhausted` as soon as there is more than `limit`.
Result<std::string> decompress(std::string_view compressed, std::size_t limit);

/// Fast rather than small: what it is for is a network that is slower than a processor.
class GzipWriter {
 public:
  GzipWriter();
  ~GzipWriter();
  GzipWriter(const GzipWriter&) = delete;
  GzipWriter& operator=(const GzipWriter&) = delete;

  /// More bytes, once `write` gave nothing. They must stay until then.
  void set_input(std::string_view bytes, bool last);

  /// Compressed bytes; 0 if it takes more input, or all of it is out.
  std::size_t write(asio::mutable_buffer out);

 private:
  z_stream stream_{};
  bool last_ = false;
};

}  // namespace cube::agent
