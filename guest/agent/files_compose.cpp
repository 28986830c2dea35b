// POST /files/compose: files joined into one, whose parts are removed then. E2B's SDKs upload large files so.
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <vector>

#include "files.hpp"
#include "services.hpp"
#include "tree.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t request_limit = 4 << 20;
constexpr std::size_t sources_limit = 10'000;
constexpr std::size_t bytes_between_yields = 4 << 20;

struct Composition {
  User user;
  std::vector<std::string> sources;
  std::string destination;
};

Error invalid(std::string message) { return make_error(ErrorCode::invalid_argument, std::move(message)); }

/// A file beside the destination that takes its place once it is whole.
class Draft {
 public:
  static Result<Draft> create(std::string destination, const User& user) {
    CUBE_TRY(ensure_directories(parent_of(destination), user.uid, user.gid));
    Draft draft;
    draft.path_ = parent_of(destination) + "/.compose-" + random_lowercase(16);
    draft.destination_ = std::move(destination);
    Fd file(::open(draft.path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file) return os_error(errno, "create", draft.path_);
    draft.file_ = std::move(file);
    if (::fchown(draft.file_.get(), user.uid, user.gid) != 0) return os_error(errno, "chown", draft.path_);
    return draft;
  }
  Draft(Draft&&) = default;
  Draft& operator=(Draft&&) = delete;
  ~Draft() {
    if (file_) ::unlink(path_.c_str());
  }

  int fd() const { return file_.get(); }

  Result<void> publish() {
    if (::rename(path_.c_str(), destination_.c_str()) != 0) return os_error(errno, "rename to", destination_);
    file_.reset();
    return {};
  }

 private:
  Draft() = default;
  std::string path_;
  std::string destination_;
  Fd file_;
};

Result<std::string> resolve_file(const Settings& settings, const User& user, const std::string& path) {
  std::string resolved = resolve_path(settings, user, path);
  if (path.empty() || path.find('\0') != std::string::npos || resolved == "/")
    return invalid("'" + path + "' is not the path of a file");
  return resolved;
}

Result<Composition> parse_composition(const JsonObject& message, const Settings& settings) {
  const auto user_name = message.string("username");
  if (!user_name.ok()) return user_name.error();
  auto user = acting_user(settings, *user_name);
  if (!user.ok()) return std::move(user).error();
  const auto sources = message.strings("source_paths");
  if (!sources.ok()) return sources.error();
  const auto destination = message.string("destination");
  if (!destination.ok()) return destination.error();
  if (sources->empty()) return invalid("source_paths names no file");
  if (sources->size() > sources_limit)
    return invalid("source_paths names more than " + std::to_string(sources_limit) + " files");

  Composition composition{std::move(*user), {}, {}};
  auto target = resolve_file(settings, composition.user, *destination);
  if (!target.ok()) return std::move(target).error();
  composition.destination = std::move(*target);
  for (const std::string& source : *sources) {
    auto path = resolve_file(settings, composition.user, source);
    if (!path.ok()) return std::move(path).error();
    composition.sources.push_back(std::move(*path));
  }
  return composition;
}

/// Open, and known to be a plain file.
Result<Fd> open_source(const std::string& path, struct stat& status) {
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file && (errno == ENOENT || errno == ENOTDIR))
    return make_error(ErrorCode::not_found, "path '" + path + "' does not exist");
  if (!file) return os_error(errno, "open", path);
  if (::fstat(file.get(), &status) != 0) return os_error(errno, "stat", path);
  if (S_ISDIR(status.st_mode)) return invalid("path '" + path + "' is a directory");
  if (!S_ISREG(status.st_mode)) return invalid("path '" + path + "' is not a regular file");
  return file;
}

/// Before anything is changed: every source is there, and none is the destination, which would be removed.
Result<void> check(const Composition& composition) {
  struct stat target {};
  const bool exists = ::stat(composition.destination.c_str(), &target) == 0;
  if (exists && !S_ISREG(target.st_mode))
    return invalid("path '" + composition.destination + "' is " +
                   (S_ISDIR(target.st_mode) ? "a directory" : "not a regular file"));
  for (const std::string& path : composition.sources) {
    struct stat status {};
    const auto file = open_source(path, status);
    if (!file.ok()) return file.error();
    if (exists && status.st_dev == target.st_dev && status.st_ino == target.st_ino)
      return invalid("path '" + path + "' is both a source and the destination");
  }
  return {};
}

/// Some bytes from the offsets of both, without passing through the agent; how many, 0 at the source's end.
Result<std::size_t> copy_some(int from, int to, const std::string& path) {
  for (;;) {
    ssize_t count = ::copy_file_range(from, nullptr, to, nullptr, bytes_between_yields, 0);
    const bool unable =
        count < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP);
    if (unable) count = ::sendfile(to, from, nullptr, bytes_between_yields);  // between any two file systems
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) return os_error(errno, "copy", path);
  }
}

asio::awaitable<Result<void>> compose(http::Exchange& exchange, const Composition& composition) {
  const Result<void> checked = check(composition);
  if (!checked.ok()) co_return checked;
  auto draft = Draft::create(composition.destination, composition.user);
  if (!draft.ok()) co_return std::move(draft).error();
  for (const std::string& path : composition.sources) {
    struct stat status {};
    const auto source = open_source(path, status);
    if (!source.ok()) co_return source.error();
    for (;;) {
      const auto count = copy_some(source->get(), draft->fd(), path);
      if (!count.ok()) co_return count.error();
      if (*count == 0) break;
      co_await asio::post(exchange.executor(), asio::use_awaitable);
    }
  }
  const Result<void> published = draft->publish();
  if (!published.ok()) co_return published;
  for (const std::string& path : composition.sources)
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) co_return os_error(errno, "remove", path);
  co_return Result<void>();
}

asio::awaitable<Result<std::string>> answer_compose(http::Exchange& exchange, const Settings& settings) {
  auto body = co_await exchange.read_whole_body(request_limit);
  if (!body.ok()) co_return std::move(body).error();
  const auto message = JsonObject::parse(std::move(*body));
  if (!message.ok()) co_return message.error();
  const auto composition = parse_composition(*message, settings);
  if (!composition.ok()) co_return composition.error();
  const Result<void> done = co_await compose(exchange, *composition);
  if (!done.ok()) co_return done.error();
  JsonWriter json;
  json.begin_object();
  write_uploaded(json, composition->destination);
  json.end_object();
  co_return json.take();
}

}  // namespace

asio::awaitable<void> serve_compose(http::Exchange& exchange, const Settings& settings) {
  if (exchange.request().method != "POST") {
    http::ResponseHead refusal = files_json_head(405);
    refusal.headers.add("Allow", "POST");
    const Error error = make_error(ErrorCode::invalid_argument, "only POST is supported");
    co_await files_respond(exchange, std::move(refusal), files_error_json(405, error));
    co_return;
  }
  auto answer = co_await answer_compose(exchange, settings);
  if (answer.ok())
    co_await files_respond(exchange, files_json_head(200), std::move(*answer));
  else
    co_await files_respond_error(exchange, std::move(answer).error());
}

}  // namespace cube::agent
