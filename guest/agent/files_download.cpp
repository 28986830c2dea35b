#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <utility>
#include <vector>

#include "byte_range.hpp"
#include "conditions.hpp"
#include "content_coding.hpp"
#include "files.hpp"
#include "gzip.hpp"
#include "text.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t piece_size = 256 << 10;
constexpr std::size_t compressed_piece_size = 64 << 10;  // about a millisecond of compression

struct Download {
  Fd file;
  std::string path;
  std::uint64_t size = 0;
  timespec modified{};
};

Result<Download> open_download(const FilesRequest& request) {
  if (!request.path) return make_error(ErrorCode::invalid_argument, "the query parameter 'path' is missing");
  Download download{{}, *request.path, 0, {}};
  const std::string& path = *request.path;
  download.file = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!download.file && (errno == ENOENT || errno == ENOTDIR))
    return make_error(ErrorCode::not_found, "path '" + path + "' does not exist");
  if (!download.file) return os_error(errno, "open", path);
  struct stat status {};
  if (::fstat(download.file.get(), &status) != 0) return os_error(errno, "stat", path);
  if (S_ISDIR(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "path '" + path + "' is a directory");
  if (!S_ISREG(status.st_mode))
    return make_error(ErrorCode::invalid_argument, "path '" + path + "' is not a regular file");
  download.size = static_cast<std::uint64_t>(status.st_size);
  download.modified = status.st_mtim;
  return download;
}

/// RFC 6266: inline; filename="plain", or filename*=utf-8''… if the name is not plain ASCII.
std::string content_disposition(const std::string& path) {
  const std::string name = path.substr(path.find_last_of('/') + 1);
  const bool plain = std::ranges::all_of(name, [](char c) { return c >= ' ' && c <= '~'; });
  std::string text = plain ? "inline; filename=\"" : "inline; filename*=utf-8''";
  constexpr std::string_view digits = "0123456789ABCDEF";
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (plain && (c == '"' || c == '\\')) text += '\\';
    const bool unreserved = (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '-' ||
                            c == '.' || c == '_' || c == '~';
    if (plain || unreserved)
      text += c;
    else
      (((text += '%') += digits[byte >> 4])) += digits[byte & 15];
  }
  if (plain) text += '"';
  return text;
}

http::ResponseHead download_head(const Download& download, const RangeChoice& choice) {
  http::ResponseHead head{200,
                          {{"Content-Type", "application/octet-stream"},
                           {"Content-Disposition", content_disposition(download.path)},
                           {"Accept-Ranges", "bytes"},
                           {"Last-Modified", http_date(download.modified.tv_sec)},
                           {"Vary", "Accept-Encoding"}}};
  const std::string total = std::to_string(download.size);
  if (choice.kind == RangeChoice::Kind::part) {
    head.status = 206;
    head.headers.add("Content-Range", "bytes " + std::to_string(choice.first) + '-' +
                                          std::to_string(choice.first + choice.length - 1) + '/' + total);
  }
  head.headers.add("Content-Length", std::to_string(choice.length));
  return head;
}

http::ResponseHead unsatisfiable_head(const Download& download) {
  http::ResponseHead head = files_json_head(416);
  head.headers.add("Content-Range", "bytes */" + std::to_string(download.size));
  return head;
}

http::ResponseHead not_modified_head(const Download& download) {
  return http::ResponseHead{
      304, {{"Last-Modified", http_date(download.modified.tv_sec)}, {"Vary", "Accept-Encoding"}}};
}

/// The next bytes of the file, 0 at its end, negative if it cannot be read.
ssize_t read_piece(const Download& download, std::vector<char>& piece, std::size_t wanted,
                   std::uint64_t offset) {
  for (;;) {
    const ssize_t count = ::pread(download.file.get(), piece.data(), wanted, static_cast<off_t>(offset));
    if (count >= 0 || errno != EINTR) return count;
  }
}

/// Files of /proc and /sys say their size is 0 and have content all the same: `length` is nothing for them.
asio::awaitable<void> send_content(http::Exchange& exchange, http::ResponseHead head, Download download,
                                   std::uint64_t offset, std::optional<std::uint64_t> length) {
  std::vector<char> piece(length ? std::min<std::uint64_t>(*length, piece_size) : piece_size);
  bool begun = false;
  while (!length || *length > 0) {
    const std::size_t wanted =
        length ? static_cast<std::size_t>(std::min<std::uint64_t>(*length, piece.size())) : piece.size();
    const ssize_t count = read_piece(download, piece, wanted, offset);
    if (count == 0 && !length) break;
    // Truncated meanwhile or unreadable: the response stays unfinished, which closes the connection.
    if (count <= 0) co_return;
    const auto bytes = asio::buffer(piece.data(), static_cast<std::size_t>(count));
    Result<void> sent;
    if (std::exchange(begun, true))
      sent = co_await exchange.write(bytes);
    else
      sent = co_await exchange.begin(std::move(head), bytes);
    if (!sent.ok()) co_return;
    offset += static_cast<std::uint64_t>(count);
    if (length) *length -= static_cast<std::uint64_t>(count);
  }
  Result<void> sent;
  if (!begun) sent = co_await exchange.begin(std::move(head));
  if (sent.ok()) sent = co_await exchange.finish();
  if (!sent.ok()) co_return;
}

/// The whole file, up to the end it has when that is reached.
asio::awaitable<void> send_compressed(http::Exchange& exchange, Download download) {
  std::vector<char> piece(compressed_piece_size);
  std::vector<char> packed(compressed_piece_size);
  GzipWriter gzip;
  std::uint64_t offset = 0;
  for (bool last = false; !last;) {
    const ssize_t count = read_piece(download, piece, piece.size(), offset);
    if (count < 0) co_return;  // as above
    offset += static_cast<std::uint64_t>(count);
    last = count == 0;
    gzip.set_input(std::string_view(piece.data(), static_cast<std::size_t>(count)), last);
    while (const std::size_t produced = gzip.write(asio::buffer(packed))) {
      const Result<void> written = co_await exchange.write(asio::buffer(packed.data(), produced));
      if (!written.ok()) co_return;
    }
    co_await asio::post(exchange.executor(), asio::use_awaitable);  // zeros make no output to wait for
  }
  const Result<void> finished = co_await exchange.finish();
  if (!finished.ok()) co_return;
}

/// Whole or in part, as the Range header asks.
asio::awaitable<void> serve_plain(http::Exchange& exchange, Download download) {
  const auto& headers = exchange.request().headers;
  const bool ranged = range_applies(headers, download.modified.tv_sec);
  const RangeChoice choice =
      choose_range(ranged ? headers.get("Range").value_or("") : std::string_view(), download.size);
  if (choice.kind == RangeChoice::Kind::unsatisfiable) {
    const Error error = make_error(ErrorCode::invalid_argument, "the range is beyond the end of the file");
    co_await files_respond(exchange, unsatisfiable_head(download), files_error_json(416, error));
    co_return;
  }
  http::ResponseHead head = download_head(download, choice);
  if (exchange.request().method == "HEAD") {
    co_await files_respond(exchange, std::move(head), {});
    co_return;
  }
  char first_byte = 0;
  const bool sizeless = download.size == 0 && ::pread(download.file.get(), &first_byte, 1, 0) == 1;
  if (sizeless) head.headers.remove("Content-Length");
  std::optional<std::uint64_t> length;
  if (!sizeless) length = choice.length;
  co_await send_content(exchange, std::move(head), std::move(download), choice.first, length);
}

asio::awaitable<void> serve_compressed(http::Exchange& exchange, Download download) {
  const RangeChoice whole;
  http::ResponseHead head = download_head(download, whole);
  head.headers.remove("Content-Length");
  head.headers.remove("Accept-Ranges");
  head.headers.add("Content-Encoding", "gzip");
  const Result<void> begun = co_await exchange.begin(std::move(head));
  if (begun.ok()) co_await send_compressed(exchange, std::move(download));
}

}  // namespace

asio::awaitable<void> serve_download(http::Exchange& exchange, FilesRequest request) {
  auto download = open_download(request);
  if (!download.ok()) {
    co_await files_respond_error(exchange, std::move(download).error());
    co_return;
  }
  const auto& headers = exchange.request().headers;
  const auto coding = choose_coding(headers.get("Accept-Encoding").value_or(""));
  const bool conditional = is_conditional(headers);
  if (!coding) {
    const Error error =
        make_error(ErrorCode::invalid_argument, "no acceptable encoding found, supported: [identity, gzip]");
    co_await files_respond(exchange, files_json_head(406), files_error_json(406, error));
    co_return;
  }
  const Condition condition = check_conditions(headers, download->modified.tv_sec);
  if (condition == Condition::not_modified) {
    co_await files_respond(exchange, not_modified_head(*download), {});
  } else if (condition == Condition::failed) {
    const Error error =
        make_error(ErrorCode::invalid_argument, "the file does not meet the request's conditions");
    co_await files_respond(exchange, files_json_head(412), files_error_json(412, error));
  } else if (*coding == ContentCoding::gzip && !conditional && exchange.request().method == "GET") {
    co_await serve_compressed(exchange, std::move(*download));
  } else {
    co_await serve_plain(exchange, std::move(*download));
  }
}

}  // namespace cube::agent
