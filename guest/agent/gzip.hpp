// GzipReader: decompresses gzip that arrives in pieces, into pieces as large as the caller's buffer.
#pragma once

#include <zlib.h>

#include <asio/buffer.hpp>
#include <cube/core.hpp>
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

}  // namespace cube::agent
