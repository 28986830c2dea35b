#include "gzip.hpp"

#include <algorithm>
#include <limits>
#include <new>

namespace cube::agent {

namespace {

constexpr int gzip_only = MAX_WBITS + 16;

}  // namespace

GzipReader::GzipReader() {
  if (::inflateInit2(&stream_, gzip_only) != Z_OK) throw std::bad_alloc();
}

GzipReader::~GzipReader() { ::inflateEnd(&stream_); }

void GzipReader::set_input(std::string_view bytes) {
  stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));  // zlib does not write to it
  stream_.avail_in = static_cast<uInt>(bytes.size());
}

Result<std::size_t> GzipReader::read(asio::mutable_buffer out) {
  const auto size = static_cast<uInt>(std::min<std::size_t>(out.size(), std::numeric_limits<uInt>::max()));
  stream_.next_out = static_cast<Bytef*>(out.data());
  stream_.avail_out = size;
  while (stream_.avail_out > 0) {
    if (at_end_ && stream_.avail_in == 0) break;
    if (at_end_) {  // RFC 1952 section 2.2: members follow one another
      ::inflateReset(&stream_);
      at_end_ = false;
    }
    const int status = ::inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_STREAM_END)
      at_end_ = true;
    else if (status == Z_BUF_ERROR)
      break;
    else if (status != Z_OK)
      return make_error(ErrorCode::invalid_argument, "the body is not valid gzip");
  }
  return size - stream_.avail_out;
}

}  // namespace cube::agent
