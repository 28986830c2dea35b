#include "gzip.hpp"

#include <algorithm>
#include <limits>
#include <new>

namespace cube::agent {

namespace {

constexpr int gzip_only = MAX_WBITS + 16;
constexpr int default_memory_level = 8;  // zlib.h, deflateInit2
constexpr std::size_t first_guess = 4 << 10;

uInt limited(std::size_t size) {
  return static_cast<uInt>(std::min<std::size_t>(size, std::numeric_limits<uInt>::max()));
}

// zlib does not write to its input.
Bytef* input_of(std::string_view bytes) { return reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data())); }

}  // namespace

GzipReader::GzipReader() {
  if (::inflateInit2(&stream_, gzip_only) != Z_OK) throw std::bad_alloc();
}

GzipReader::~GzipReader() { ::inflateEnd(&stream_); }

void GzipReader::set_input(std::string_view bytes) {
  stream_.next_in = input_of(bytes);
  stream_.avail_in = static_cast<uInt>(bytes.size());
}

Result<std::size_t> GzipReader::read(asio::mutable_buffer out) {
  const uInt size = limited(out.size());
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

Result<std::string> decompress(std::string_view compressed, std::size_t limit) {
  GzipReader reader;
  reader.set_input(compressed);
  std::string text;
  std::size_t used = 0;
  for (;;) {
    if (used == text.size()) text.resize(std::min(std::max(2 * used, first_guess), limit + 1));
    const auto count = reader.read(asio::buffer(text.data() + used, text.size() - used));
    if (!count.ok()) return count.error();
    if (*count == 0) break;
    used += *count;
    if (used > limit)
      return make_error(ErrorCode::resource_exhausted,
                        "the message is larger than " + std::to_string(limit) + " bytes when decompressed");
  }
  if (!reader.at_end())
    return make_error(ErrorCode::invalid_argument, "the compressed message ends too early");
  text.resize(used);
  return text;
}

GzipWriter::GzipWriter() {
  if (::deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, gzip_only, default_memory_level,
                     Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::bad_alloc();
}

GzipWriter::~GzipWriter() { ::deflateEnd(&stream_); }

void GzipWriter::set_input(std::string_view bytes, bool last) {
  stream_.next_in = input_of(bytes);
  stream_.avail_in = static_cast<uInt>(bytes.size());
  last_ = last;
}

std::size_t GzipWriter::write(asio::mutable_buffer out) {
  const uInt size = limited(out.size());
  stream_.next_out = static_cast<Bytef*>(out.data());
  stream_.avail_out = size;
  ::deflate(&stream_, last_ ? Z_FINISH : Z_NO_FLUSH);  // what it cannot do now shows in the count
  return size - stream_.avail_out;
}

}  // namespace cube::agent
