// Files of a sandbox: E2B's /files and filesystem.Filesystem.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "file_tree.hpp"
#include "json.hpp"
#include "process_stream.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr unsigned uploaded_file_mode = 0644;
constexpr unsigned made_directory_mode = 0755;
constexpr std::size_t paths_at_once = 200;  // of one chmod
constexpr const char* files_type = "application/octet-stream";

FileInfo info_of(JsonValue entry) {
  const std::string type = json_string(entry, "type");
  FileInfo info;
  info.name = json_string(entry, "name");
  info.kind = type == "FILE_TYPE_FILE"        ? FileInfo::Kind::file
              : type == "FILE_TYPE_DIRECTORY" ? FileInfo::Kind::directory
                                              : FileInfo::Kind::other;
  info.is_link = json_boolean(entry, "isSymlink");
  // An int64 is a string in proto3 JSON.
  const std::string size = json_string(entry, "size");
  info.size = std::strtoull(size.c_str(), nullptr, 10);
  info.mode = static_cast<unsigned>(json_integer(entry, "mode")) & 0777;
  return info;
}

std::string path_body(const std::string& path, std::string_view more = {}) {
  JsonWriter json;
  json.begin_object().key("path").value(path);
  if (!more.empty()) json.key(more).value(1);
  json.end_object();
  return json.take();
}

http::RequestHead files_head(const Client& client, const Sandbox& sandbox, std::string method,
                             const std::string& path) {
  std::string target = "/files?path=" + url_encode(path);
  if (!sandbox.user.empty()) target += "&username=" + url_encode(sandbox.user);
  return agent_head(client, sandbox, std::move(method), std::move(target), files_type);
}

class DownloadReader final : public FileReader {
 public:
  DownloadReader(Client& client, http::ClientConnection connection)
      : client_(client), connection_(std::move(connection)) {}

  awaitable<Result<std::size_t>> read(asio::mutable_buffer buffer) override {
    auto count = co_await connection_.read_body(buffer);
    if (count.ok() && *count == 0) client_.keep(std::move(connection_));
    co_return count;
  }

 private:
  Client& client_;
  http::ClientConnection connection_;
};

}  // namespace

class SandboxTree final : public FileTree {
 public:
  SandboxTree(Client& client, Sandbox sandbox) : client_(client), sandbox_(std::move(sandbox)) {}

  awaitable<Result<std::optional<FileInfo>>> look_at(std::string path) override {
    const auto answer =
        co_await call_agent(client_, sandbox_, "/filesystem.Filesystem/Stat", path_body(path));
    // A sandbox that is gone is 502, never 404.
    if (!answer.ok() && answer.error().code == ErrorCode::not_found) co_return std::optional<FileInfo>();
    if (!answer.ok()) co_return answer.error();
    const auto document = JsonDocument::parse(*answer);
    if (!document.ok()) co_return document.error();
    JsonValue entry;
    if (document->root()["entry"].get(entry) != simdjson::SUCCESS)
      co_return make_error(ErrorCode::unavailable, "the sandbox's answer has no entry");
    co_return std::optional<FileInfo>(info_of(entry));
  }

  awaitable<Result<std::vector<FileInfo>>> list(std::string path) override {
    const auto answer =
        co_await call_agent(client_, sandbox_, "/filesystem.Filesystem/ListDir", path_body(path, "depth"));
    if (!answer.ok()) co_return answer.error();
    const auto document = JsonDocument::parse(*answer);
    if (!document.ok()) co_return document.error();
    std::vector<FileInfo> entries;
    for (const JsonValue entry : json_array(document->root(), "entries")) {
      FileInfo info = info_of(entry);
      // It becomes part of a path here: the sandbox must not choose which directory that is in.
      if (info.name.empty() || info.name == "." || info.name == ".." ||
          info.name.find('/') != std::string::npos)
        co_return make_error(ErrorCode::guest, "the sandbox lists a file of an impossible name");
      entries.push_back(std::move(info));
    }
    std::ranges::sort(entries, {}, &FileInfo::name);
    co_return entries;
  }

  awaitable<Result<void>> make_directory(std::string path, unsigned mode) override {
    const auto answer =
        co_await call_agent(client_, sandbox_, "/filesystem.Filesystem/MakeDir", path_body(path));
    if (!answer.ok() && answer.error().code == ErrorCode::conflict) co_return Result<void>{};  // it is there
    if (!answer.ok()) co_return answer.error();
    if (mode == made_directory_mode) co_return Result<void>{};
    const auto document = JsonDocument::parse(*answer);
    if (!document.ok()) co_return document.error();
    JsonValue entry;
    if (document->root()["entry"].get(entry) == simdjson::SUCCESS)
      modes_[mode].push_back(json_string(entry, "path"));
    co_return Result<void>{};
  }

  awaitable<Result<std::unique_ptr<FileReader>>> open_to_read(std::string path) override {
    auto opened = co_await client_.open(files_head(client_, sandbox_, "GET", path), {});
    if (!opened) co_return std::move(opened).error();
    if (opened->head.status >= 300) {
      auto refused = co_await read_answer(client_, *opened);
      co_return std::move(refused).error();
    }
    co_return std::unique_ptr<FileReader>(new DownloadReader(client_, std::move(opened->connection)));
  }

  awaitable<Result<std::unique_ptr<FileWriter>>> open_to_write(std::string path, unsigned mode) override;

  awaitable<Result<void>> finish() override {
    for (auto& [mode, paths] : modes_) {
      while (!paths.empty()) {
        const std::size_t kept = paths.size() - std::min(paths.size(), paths_at_once);
        std::vector<std::string> some(paths.begin() + static_cast<std::ptrdiff_t>(kept), paths.end());
        paths.resize(kept);
        const auto set = co_await set_modes(mode, std::move(some));
        if (!set.ok()) co_return set;
      }
    }
    co_return Result<void>{};
  }

  std::string describe(const std::string& path) const override { return sandbox_.id + ":" + path; }

  /// The API writes every file with the same mode: others are set at the end.
  void written(std::string path, unsigned mode) {
    if (mode != uploaded_file_mode) modes_[mode].push_back(std::move(path));
  }

 private:
  awaitable<Result<void>> set_modes(unsigned mode, std::vector<std::string> paths) {
    char octal[8];
    std::snprintf(octal, sizeof octal, "%o", mode);
    ProcessRequest request;
    request.command = "chmod";
    request.arguments.push_back(octal);
    request.arguments.push_back("--");
    request.arguments.insert(request.arguments.end(), paths.begin(), paths.end());
    auto stream = co_await ProcessStream::start(client_, sandbox_, std::move(request));
    if (!stream) co_return std::move(stream).error();
    std::string complaints;
    for (;;) {
      const auto event = co_await (*stream)->next();
      if (!event) co_return event.error();
      if ((*event)->kind == ProcessEvent::Kind::standard_error && complaints.size() < 1000)
        complaints += (*event)->bytes;
      if ((*event)->kind != ProcessEvent::Kind::end) continue;
      if ((*event)->exit_status == 0) co_return Result<void>{};
      co_return make_error(ErrorCode::unavailable, "copied, but without modes: " + complaints);
    }
  }

  Client& client_;
  Sandbox sandbox_;
  std::map<unsigned, std::vector<std::string>> modes_;  ///< paths whose mode is still to be set
};

namespace {

/// One request, whose body is the file as it comes.
class UploadWriter final : public FileWriter {
 public:
  UploadWriter(SandboxTree& tree, Client& client, http::ClientConnection connection, unsigned mode)
      : tree_(tree), client_(client), connection_(std::move(connection)), mode_(mode) {}

  awaitable<Result<void>> write(asio::const_buffer piece) override {
    auto written = co_await connection_.write(piece);
    if (written.ok()) co_return written;
    // The sandbox may have said why it takes no more.
    auto answer = co_await receive();
    if (answer.ok()) co_return written;
    co_return std::move(answer).error();
  }

  awaitable<Result<void>> finish() override {
    const auto finished = co_await connection_.finish();
    const auto answer = co_await receive();
    if (!answer.ok()) co_return answer.error();
    if (!finished.ok()) co_return finished;
    const auto document = JsonDocument::parse(*answer);
    if (!document.ok()) co_return document.error();
    const auto files = json_array(document->root());
    if (!files.empty()) tree_.written(json_string(files.front(), "path"), mode_);
    client_.keep(std::move(connection_));
    co_return Result<void>{};
  }

 private:
  awaitable<Result<std::string>> receive() {
    constexpr std::size_t limit = 1 << 20;
    const auto head = co_await connection_.read_head();
    if (!head.ok()) co_return head.error();
    auto body = co_await connection_.read_whole_body(limit);
    if (head->status >= 300) co_return client_.error_of(head->status, body.ok() ? *body : "");
    co_return body;
  }

  SandboxTree& tree_;
  Client& client_;
  http::ClientConnection connection_;
  unsigned mode_;
};

}  // namespace

awaitable<Result<std::unique_ptr<FileWriter>>> SandboxTree::open_to_write(std::string path, unsigned mode) {
  auto connection = co_await client_.connect();
  if (!connection) co_return std::move(connection).error();
  http::RequestHead head = files_head(client_, sandbox_, "POST", path);
  head.headers.add("Transfer-Encoding", "chunked");
  const auto begun = co_await connection->begin(std::move(head));
  if (!begun.ok()) co_return begun.error();
  co_return std::unique_ptr<FileWriter>(new UploadWriter(*this, client_, std::move(*connection), mode));
}

std::unique_ptr<FileTree> make_sandbox_tree(Client& client, Sandbox sandbox) {
  return std::make_unique<SandboxTree>(client, std::move(sandbox));
}

}  // namespace cube::cubectl
