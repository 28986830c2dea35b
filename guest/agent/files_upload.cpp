#include <algorithm>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <vector>

#include "entry.hpp"
#include "files.hpp"
#include "gzip.hpp"
#include "multipart.hpp"
#include "text.hpp"
#include "upload.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t piece_size = 256 << 10;
constexpr std::size_t metadata_limit = 4096;  // of one file; an inode has little more for all attributes
constexpr std::size_t metadata_key_limit = 255 - metadata_prefix.size();  // XATTR_NAME_MAX
constexpr std::size_t files_limit = 10'000;                               // of one request

bool is_printable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

/// X-Metadata-<Key> headers; the keys are lower case, the first of each counts.
Result<Metadata> parse_metadata(const http::Headers& headers) {
  constexpr std::string_view prefix = "x-metadata-";
  Metadata metadata;
  std::size_t size = 0;
  for (const auto& [field, value] : headers.fields()) {
    if (!same_ignoring_case(field.substr(0, prefix.size()), prefix)) continue;
    std::string key(field.substr(prefix.size()));
    std::ranges::transform(key, key.begin(), lower);
    if (key.empty() || !is_printable(key) || !is_printable(value))
      return make_error(
          ErrorCode::invalid_argument,
          "metadata '" + key + "' must have a name, and both it and its value be printable ASCII");
    if (key.size() > metadata_key_limit)
      return make_error(
          ErrorCode::invalid_argument,
          "a metadata name exceeds " + std::to_string(metadata_key_limit) + " bytes: '" + key + "'");
    const auto [place, first] = metadata.try_emplace(std::move(key), value);
    if (first) size += metadata_prefix.size() + place->first.size() + value.size();
  }
  if (size > metadata_limit)
    return make_error(ErrorCode::invalid_argument, "metadata of " + std::to_string(size) + " bytes exceed " +
                                                       std::to_string(metadata_limit) + ", with '" +
                                                       std::string(metadata_prefix) + "' counted for each");
  return metadata;
}

/// Writes the files of one request, one after another.
class UploadRequest : public MultipartHandler {
 public:
  UploadRequest(const Settings& settings, FilesRequest request, Metadata metadata)
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
      json.begin_object();
      write_uploaded(json, path);
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

  const FilesRequest& request() const { return request_; }

 private:
  const Settings& settings_;
  const FilesRequest request_;
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

asio::awaitable<Result<std::string>> upload_files(http::Exchange& exchange, FilesRequest request,
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

asio::awaitable<void> serve_upload(http::Exchange& exchange, FilesRequest request, const Settings& settings) {
  auto answer = co_await upload_files(exchange, std::move(request), settings);
  if (answer.ok())
    co_await files_respond(exchange, files_json_head(200), std::move(*answer));
  else
    co_await files_respond_error(exchange, std::move(answer).error());
}

}  // namespace cube::agent
