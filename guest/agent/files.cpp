// GET, HEAD and POST /files, as envd has them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <charconv>
#include <vector>

#include "byte_range.hpp"
#include "entry.hpp"
#include "gzip.hpp"
#include "multipart.hpp"
#include "services.hpp"
#include "text.hpp"
#include "upload.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t piece_size = 256 << 10;
constexpr std::size_t metadata_limit = 4096;
constexpr std::size_t files_limit = 10'000;  // of one request

// Not in the coroutines themselves: g++ 12 cannot keep an initializer list in a frame.
http::ResponseHead json_head(int status) {
  return http::ResponseHead{
      status, {{"Content-Type", "application/json; charset=utf-8"}, {"Vary", "Accept-Encoding"}}};
}

int files_status(const Error& error) {
  if (error.os_errno == ENOSPC || error.os_errno == EDQUOT) return 507;
  switch (error.code) {
    case ErrorCode::invalid_argument: return 400;
    case ErrorCode::unauthenticated: return 401;
    case ErrorCode::not_found: return 404;
    case ErrorCode::unimplemented: return 415;
    default: return 500;
  }
}

/// {"code":404,"message":"…"}
std::string files_error_json(int status, const Error& error) {
  JsonWriter json;
  json.begin_object().key("code").value(status);
  json.key("message").value(error.os_errno == 0 ? error.message : error.describe()).end_object();
  return json.take();
}

asio::awaitable<void> respond(http::Exchange& exchange, http::ResponseHead head, std::string body) {
  const Result<void> sent = co_await exchange.respond(std::move(head), std::move(body));
  if (!sent.ok()) co_return;  // the client is gone: nobody is left to be told
}

asio::awaitable<void> respond_error(http::Exchange& exchange, Error error) {
  const int status = files_status(error);
  co_await respond(exchange, json_head(status), files_error_json(status, error));
}

/// The user of the request and, if it names one, the path.
struct Request {
  User user;
  std::optional<std::string> path;
};

Result<Request> parse_request(const http::RequestHead& head, const Settings& settings) {
  const std::string_view query = head.query();
  auto user = acting_user(settings, http::query_parameter(query, "username").value_or(""));
  if (!user.ok()) return std::move(user).error();
  Request request{std::move(*user), {}};
  if (auto path = http::query_parameter(query, "path"))
    request.path = resolve_path(settings, request.user, *path);
  return request;
}

// ---- GET
// -----------------------------------------------------------------------------------------------------

struct Download {
  Fd file;
  std::string path;
  std::uint64_t size = 0;
  timespec modified{};
};

Result<Download> open_download(const Request& request) {
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

std::string http_date(time_t time) {
  struct tm parts {};
  ::gmtime_r(&time, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts));
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
  http::ResponseHead head = json_head(416);
  head.headers.add("Content-Range", "bytes */" + std::to_string(download.size));
  return head;
}

/// Files of /proc and /sys say their size is 0 and have content all the same: `length` is nothing for them.
asio::awaitable<void> send_content(http::Exchange& exchange, Download download, std::uint64_t offset,
                                   std::optional<std::uint64_t> length) {
  std::vector<char> piece(piece_size);
  while (!length || *length > 0) {
    const std::size_t wanted =
        length ? static_cast<std::size_t>(std::min<std::uint64_t>(*length, piece.size())) : piece.size();
    const ssize_t count = ::pread(download.file.get(), piece.data(), wanted, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 && !length) break;
    // Truncated meanwhile or unreadable: the response stays unfinished, which closes the connection.
    if (count <= 0) co_return;
    const Result<void> written =
        co_await exchange.write(asio::buffer(piece.data(), static_cast<std::size_t>(count)));
    if (!written.ok()) co_return;
    offset += static_cast<std::uint64_t>(count);
    if (length) *length -= static_cast<std::uint64_t>(count);
  }
  const Result<void> finished = co_await exchange.finish();
  if (!finished.ok()) co_return;
}

asio::awaitable<void> serve_download(http::Exchange& exchange, Request request) {
  auto download = open_download(request);
  if (!download.ok()) {
    co_await respond_error(exchange, std::move(download).error());
    co_return;
  }
  const auto& headers = exchange.request().headers;
  // The validator of If-Range is never ours, so the whole file is the answer (RFC 9110 section 13.1.5).
  const bool ranged = !headers.get("If-Range");
  const RangeChoice choice =
      choose_range(ranged ? headers.get("Range").value_or("") : std::string_view(), download->size);
  if (choice.kind == RangeChoice::Kind::unsatisfiable) {
    const Error error = make_error(ErrorCode::invalid_argument, "the range is beyond the end of the file");
    co_await respond(exchange, unsatisfiable_head(*download), files_error_json(416, error));
    co_return;
  }
  http::ResponseHead head = download_head(*download, choice);
  if (exchange.request().method == "HEAD") {
    co_await respond(exchange, std::move(head), {});
    co_return;
  }
  char first_byte = 0;
  const bool sizeless = download->size == 0 && ::pread(download->file.get(), &first_byte, 1, 0) == 1;
  if (sizeless) head.headers.remove("Content-Length");
  const Result<void> begun = co_await exchange.begin(std::move(head));
  if (!begun.ok()) co_return;
  std::optional<std::uint64_t> length;
  if (!sizeless) length = choice.length;
  co_await send_content(exchange, std::move(*download), choice.first, length);
}

// ---- POST
// ----------------------------------------------------------------------------------------------------

/// X-Metadata-<Key> headers; the keys are lower case.
Result<Metadata> parse_metadata(const http::Headers& headers) {
  constexpr std::string_view prefix = "x-metadata-";
  Metadata metadata;
  std::size_t size = 0;
  for (const auto& [field, value] : headers.fields()) {
    if (!same_ignoring_case(std::string_view(field).substr(0, prefix.size()), prefix)) continue;
    std::string key = field.substr(prefix.size());
    std::ranges::transform(key, key.begin(), lower);
    const bool ascii = std::ranges::all_of(value, [](char c) { return c >= ' ' && c <= '~'; });
    if (key.empty() || !ascii)
      return make_error(ErrorCode::invalid_argument,
                        "metadata '" + key + "' must have a name and an ASCII value");
    size += key.size() + value.size();
    if (size > metadata_limit || key.size() > 200)  // XATTR_NAME_MAX is 255
      return make_error(ErrorCode::invalid_argument,
                        "metadata exceed " + std::to_string(metadata_limit) + " bytes, or a name 200");
    metadata.insert_or_assign(std::move(key), value);
  }
  return metadata;
}

/// Writes the files of one request, one after another.
class UploadRequest : public MultipartHandler {
 public:
  UploadRequest(const Settings& settings, Request request, Metadata metadata)
      : settings_(settings), request_(std::move(request)), metadata_(std::move(metadata)) {}

  Result<void> begin_part(PartHead head) override {
    if (head.name != "file") return {};  // other fields are ignored
    if (request_.path) return begin_file(*request_.path);
    if (!head.file_name || head.file_name->empty())
      return make_error(ErrorCode::invalid_argument,
                        "a file has neither a filename nor the query parameter 'path'");
    return begin_file(resolve_path(settings_, request_.user, *head.file_name));
  }
  Result<void> part_data(std::string_view bytes) override {
    return current_ ? current_->write(bytes) : Result<void>();
  }
  Result<void> end_part() override {
    if (!current_) return {};
    CUBE_TRY(current_->finish());
    written_.push_back(current_->path());
    current_.reset();
    return {};
  }

  Result<void> begin_file(std::string path) {
    if (path.find('\0') != std::string::npos || path == "/")
      return make_error(ErrorCode::invalid_argument, "'" + path + "' is not the path of a file");
    if (std::ranges::find(written_, path) != written_.end())
      return make_error(
          ErrorCode::invalid_argument,
          "path '" + path + "' occurs more than once in this upload; only its first file was written");
    if (written_.size() == files_limit)
      return make_error(ErrorCode::invalid_argument,
                        "more than " + std::to_string(files_limit) + " files in one upload");
    current_.emplace(std::move(path), request_.user, metadata_);
    return {};
  }

  /// [{"path":"/a/b","name":"b","type":"file"}]
  std::string answer() const {
    JsonWriter json;
    json.begin_array();
    for (const std::string& path : written_) {
      json.begin_object().key("path").value(path);
      json.key("name").value(std::string_view(path).substr(path.find_last_of('/') + 1));
      json.key("type").value("file");
      if (!metadata_.empty()) {
        json.key("metadata").begin_object();
        for (const auto& [name, value] : metadata_) json.key(name).value(value);
        json.end_object();
      }
      json.end_object();
    }
    json.end_array();
    return json.take();
  }

  const Request& request() const { return request_; }

 private:
  const Settings& settings_;
  const Request request_;
  const Metadata metadata_;
  std::vector<std::string> written_;
  std::optional<Upload> current_;
};

/// The request's body, decompressed if it is gzip.
class Body {
 public:
  Body(http::Exchange& exchange, bool gzip) : exchange_(exchange), input_(gzip ? piece_size : 0) {
    if (gzip) gzip_.emplace();
  }

  asio::awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer) {
    if (!gzip_) co_return co_await exchange_.read_body(buffer);
    for (;;) {
      const auto produced = gzip_->read(buffer);
      if (!produced.ok() || *produced > 0) co_return produced;
      const auto count = co_await exchange_.read_body(asio::buffer(input_));
      if (!count.ok()) co_return count;
      if (*count == 0 && !gzip_->at_end())
        co_return make_error(ErrorCode::invalid_argument, "the gzip body ends too early");
      if (*count == 0) co_return std::size_t{0};
      gzip_->set_input(std::string_view(input_.data(), *count));
    }
  }

 private:
  http::Exchange& exchange_;
  std::vector<char> input_;
  std::optional<GzipReader> gzip_;
};

asio::awaitable<Result<void>> receive(http::Exchange& exchange, Body& body, UploadRequest& upload,
                                      MultipartParser* parser) {
  std::vector<char> piece(piece_size);
  for (;;) {
    const auto count = co_await body.read(asio::buffer(piece));
    if (!count.ok()) co_return count.error();
    if (*count == 0) break;
    const std::string_view bytes(piece.data(), *count);
    const Result<void> taken = parser ? parser->feed(bytes) : upload.part_data(bytes);
    if (!taken.ok()) co_return taken;
    co_await asio::post(exchange.executor(), asio::use_awaitable);  // others' turn, however fast bytes come
  }
  if (!parser) co_return upload.end_part();
  if (!parser->complete())
    co_return make_error(ErrorCode::invalid_argument,
                         "malformed multipart body: it ends before its last boundary");
  co_return Result<void>();
}

asio::awaitable<Result<std::string>> serve_upload(http::Exchange& exchange, Request request,
                                                  const Settings& settings) {
  const auto& headers = exchange.request().headers;
  const std::string_view encoding = trim(headers.get("Content-Encoding").value_or("identity"));
  const bool gzip = same_ignoring_case(encoding, "gzip");
  if (!gzip && !same_ignoring_case(encoding, "identity"))
    co_return make_error(ErrorCode::unimplemented, "Content-Encoding must be gzip or identity");
  auto metadata = parse_metadata(headers);
  if (!metadata.ok()) co_return std::move(metadata).error();

  Body body(exchange, gzip);
  UploadRequest upload(settings, std::move(request), std::move(*metadata));
  const std::string content_type(headers.get("Content-Type").value_or(""));
  Result<void> received;
  if (same_ignoring_case(media_type(content_type), "application/octet-stream")) {
    if (!upload.request().path)
      co_return make_error(ErrorCode::invalid_argument, "the query parameter 'path' is missing");
    received = upload.begin_file(*upload.request().path);
    if (received.ok()) received = co_await receive(exchange, body, upload, nullptr);
  } else if (same_ignoring_case(media_type(content_type), "multipart/form-data")) {
    auto boundary = multipart_boundary(content_type);
    if (!boundary.ok()) co_return std::move(boundary).error();
    MultipartParser parser(std::move(*boundary), upload);
    received = co_await receive(exchange, body, upload, &parser);
  } else {
    co_return make_error(ErrorCode::invalid_argument,
                         "the content type must be multipart/form-data or application/octet-stream, not '" +
                             content_type + "'");
  }
  if (!received.ok()) co_return std::move(received).error();
  co_return upload.answer();
}

}  // namespace

asio::awaitable<void> serve_files(http::Exchange& exchange, const Settings& settings) {
  const http::RequestHead& head = exchange.request();
  const bool reads = head.method == "GET" || head.method == "HEAD";
  if (!reads && head.method != "POST") {
    http::ResponseHead refusal = json_head(405);
    refusal.headers.add("Allow", "GET, HEAD, POST");
    const Error error = make_error(ErrorCode::invalid_argument, "only GET, HEAD and POST are supported");
    co_await respond(exchange, std::move(refusal), files_error_json(405, error));
    co_return;
  }
  auto request = parse_request(head, settings);
  if (!request.ok()) {
    co_await respond_error(exchange, std::move(request).error());
  } else if (reads) {
    co_await serve_download(exchange, std::move(*request));
  } else {
    auto answer = co_await serve_upload(exchange, std::move(*request), settings);
    if (answer.ok())
      co_await respond(exchange, json_head(200), std::move(*answer));
    else
      co_await respond_error(exchange, std::move(answer).error());
  }
}

}  // namespace cube::agent
