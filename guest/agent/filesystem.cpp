#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <cstdio>

#include "entry.hpp"
#include "services.hpp"
#include "tree.hpp"
#include "watcher.hpp"

namespace cube::agent {

namespace {

constexpr std::size_t listed_entries_limit = 100'000;
constexpr std::size_t entries_between_yields = 256;
constexpr std::size_t polled_watchers_limit = 256;

using Answer = Result<std::string>;

Error not_found(const std::string& path) {
  return make_error(ErrorCode::not_found, "path '" + path + "' does not exist");
}

Result<struct stat> status_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) return not_found(path);
  return os_error(errno, "stat", path);
}

Result<void> require_directory(const std::string& path) {
  const auto status = status_of(path);
  if (!status.ok()) return status.error();
  if (!S_ISDIR(status->st_mode))
    return make_error(ErrorCode::invalid_argument, "path '" + path + "' is not a directory");
  return {};
}

/// Changes made by other machines are not seen by inotify.
bool is_network_mount(const std::string& path) {
  constexpr std::int64_t cifs = 0xFF534D42;
  constexpr std::int64_t smb2 = 0xFE534D42;
  constexpr std::int64_t fuse = 0x65735546;
  struct statfs status {};
  if (::statfs(path.c_str(), &status) != 0) return false;
  const auto type = static_cast<std::int64_t>(status.f_type);
  return type == NFS_SUPER_MAGIC || type == SMB_SUPER_MAGIC || type == cifs || type == smb2 || type == fuse;
}

/// {"entry":{…}}
Answer entry_answer(const std::string& path) {
  JsonWriter json;
  json.begin_object().key("entry");
  CUBE_TRY(EntryWriter().append(json, path));
  json.end_object();
  return json.take();
}

void write_event(JsonWriter& json, const WatchEvent& event) {
  json.begin_object().key("name").value(event.name).key("type").value(to_string(event.type));
  if (!event.entry_json.empty()) json.key("entry").raw(event.entry_json);
  json.end_object();
}

}  // namespace

class FilesystemService : public std::enable_shared_from_this<FilesystemService> {
 public:
  FilesystemService(asio::any_io_executor loop, const Settings& settings)
      : loop_(std::move(loop)), settings_(settings) {}

  void add_to(Router& router);

 private:
  /// A method that is done at once.
  using Immediate = Answer (FilesystemService::*)(const CallContext&, const JsonObject&);

  struct Target {
    User user;
    std::string path;
  };

  void add(Router& router, std::string name, Immediate method);
  static asio::awaitable<Answer> call(std::shared_ptr<FilesystemService> self, Immediate method,
                                      CallContext context, JsonObject message);

  Result<Target> target(const CallContext& context, const JsonObject& message, std::string_view field) const;

  Answer stat(const CallContext& context, const JsonObject& message);
  Answer make_directory(const CallContext& context, const JsonObject& message);
  Answer move(const CallContext& context, const JsonObject& message);
  static asio::awaitable<Answer> list(std::shared_ptr<FilesystemService> self, CallContext context,
                                      JsonObject message);
  static asio::awaitable<Answer> remove(std::shared_ptr<FilesystemService> self, CallContext context,
                                        JsonObject message);

  Result<std::shared_ptr<DirectoryWatcher>> open_watcher(const CallContext& context,
                                                         const JsonObject& message);
  static asio::awaitable<Result<void>> watch(std::shared_ptr<FilesystemService> self, CallContext context,
                                             JsonObject message, MessageSink& sink);
  Answer create_watcher(const CallContext& context, const JsonObject& message);
  Answer watcher_events(const CallContext& context, const JsonObject& message);
  Answer remove_watcher(const CallContext& context, const JsonObject& message);
  Result<std::map<std::string, std::shared_ptr<DirectoryWatcher>>::iterator> find_watcher(
      const JsonObject& message);

  asio::any_io_executor loop_;
  const Settings& settings_;
  std::map<std::string, std::shared_ptr<DirectoryWatcher>> watchers_;  ///< the polled ones, by id
};

void FilesystemService::add_to(Router& router) {
  add(router, "Stat", &FilesystemService::stat);
  add(router, "MakeDir", &FilesystemService::make_directory);
  add(router, "Move", &FilesystemService::move);
  add(router, "CreateWatcher", &FilesystemService::create_watcher);
  add(router, "GetWatcherEvents", &FilesystemService::watcher_events);
  add(router, "RemoveWatcher", &FilesystemService::remove_watcher);
  const auto self = shared_from_this();
  router.add_unary("/filesystem.Filesystem/ListDir", [self](CallContext context, JsonObject message) {
    return list(self, std::move(context), std::move(message));
  });
  router.add_unary("/filesystem.Filesystem/Remove", [self](CallContext context, JsonObject message) {
    return remove(self, std::move(context), std::move(message));
  });
  router.add_server_stream("/filesystem.Filesystem/WatchDir",
                           [self](CallContext context, JsonObject message, MessageSink& sink) {
                             return watch(self, std::move(context), std::move(message), sink);
                           });
}

void FilesystemService::add(Router& router, std::string name, Immediate method) {
  router.add_unary("/filesystem.Filesystem/" + name,
                   [self = shared_from_this(), method](CallContext context, JsonObject message) {
                     return call(self, method, std::move(context), std::move(message));
                   });
}

asio::awaitable<Answer> FilesystemService::call(std::shared_ptr<FilesystemService> self, Immediate method,
                                                CallContext context, JsonObject message) {
  co_return (*self.*method)(context, message);
}

Result<FilesystemService::Target> FilesystemService::target(const CallContext& context,
                                                            const JsonObject& message,
                                                            std::string_view field) const {
  auto user = acting_user(settings_, context.user_name);
  if (!user.ok()) return std::move(user).error();
  const auto path = message.string(field);
  if (!path.ok()) return path.error();
  if (path->find('\0') != std::string::npos)
    return make_error(ErrorCode::invalid_argument, "field '" + std::string(field) + "' holds a zero byte");
  std::string resolved = resolve_path(settings_, *user, *path);
  return Target{std::move(*user), std::move(resolved)};
}

Answer FilesystemService::stat(const CallContext& context, const JsonObject& message) {
  const auto at = target(context, message, "path");
  if (!at.ok()) return at.error();
  return entry_answer(at->path);
}

Answer FilesystemService::make_directory(const CallContext& context, const JsonObject& message) {
  const auto at = target(context, message, "path");
  if (!at.ok()) return at.error();
  const auto existing = status_of(at->path);
  if (existing.ok() && S_ISDIR(existing->st_mode))
    return make_error(ErrorCode::already_exists, "directory '" + at->path + "' already exists");
  if (existing.ok())
    return make_error(ErrorCode::invalid_argument,
                      "path '" + at->path + "' already exists and is not a directory");
  CUBE_TRY(ensure_directories(at->path, at->user.uid, at->user.gid));
  return entry_answer(at->path);
}

Answer FilesystemService::move(const CallContext& context, const JsonObject& message) {
  const auto source = target(context, message, "source");
  if (!source.ok()) return source.error();
  const auto destination = target(context, message, "destination");
  if (!destination.ok()) return destination.error();

  struct stat status {};
  if (::lstat(source->path.c_str(), &status) != 0) return not_found(source->path);
  CUBE_TRY(ensure_directories(parent_of(destination->path), destination->user.uid, destination->user.gid));
  if (::rename(source->path.c_str(), destination->path.c_str()) != 0) {
    if (errno == ENOENT) return not_found(source->path);
    return os_error(errno, "move to '" + destination->path + "'", source->path);
  }
  return entry_answer(destination->path);
}

asio::awaitable<Answer> FilesystemService::list(std::shared_ptr<FilesystemService> self, CallContext context,
                                                JsonObject message) {
  const auto at = self->target(context, message, "path");
  if (!at.ok()) co_return at.error();
  const auto depth = message.integer("depth");
  if (!depth.ok()) co_return depth.error();
  if (*depth < 0 || *depth > UINT32_MAX)
    co_return make_error(ErrorCode::invalid_argument, "field 'depth' must fit 32 bits, without sign");
  const auto is_directory = require_directory(at->path);
  if (!is_directory.ok()) co_return is_directory.error();

  auto walk = DirectoryWalk::open(at->path, std::max<std::uint32_t>(1, static_cast<std::uint32_t>(*depth)),
                                  listed_entries_limit);
  if (!walk.ok()) co_return std::move(walk).error();
  const std::string prefix = at->path == "/" ? at->path : at->path + '/';
  EntryWriter writer;
  JsonWriter json;
  json.begin_object().key("entries").begin_array();
  for (std::size_t count = 1;; ++count) {
    const auto name = walk->next();
    if (!name.ok()) co_return name.error();
    if (!name->has_value()) break;
    if (count > listed_entries_limit)
      co_return make_error(ErrorCode::resource_exhausted, "'" + at->path + "' holds more than " +
                                                              std::to_string(listed_entries_limit) +
                                                              " entries; ask for a smaller depth");
    const auto written = writer.append(json, prefix + **name);
    if (!written.ok() && written.error().code != ErrorCode::not_found) co_return written.error();
    if (count % entries_between_yields == 0) co_await asio::post(self->loop_, asio::use_awaitable);
  }
  json.end_array().end_object();
  co_return json.take();
}

asio::awaitable<Answer> FilesystemService::remove(std::shared_ptr<FilesystemService> self,
                                                  CallContext context, JsonObject message) {
  const auto at = self->target(context, message, "path");
  if (!at.ok()) co_return at.error();
  auto remover = TreeRemover::open(at->path);
  if (!remover.ok()) co_return std::move(remover).error();
  for (;;) {
    const auto done = remover->step();
    if (!done.ok()) co_return done.error();
    if (*done) co_return std::string("{}");
    co_await asio::post(self->loop_, asio::use_awaitable);
  }
}

Result<std::shared_ptr<DirectoryWatcher>> FilesystemService::open_watcher(const CallContext& context,
                                                                          const JsonObject& message) {
  const auto at = target(context, message, "path");
  if (!at.ok()) return at.error();
  const auto recursive = message.boolean("recursive");
  if (!recursive.ok()) return recursive.error();
  const auto include_entry = message.boolean("includeEntry");
  if (!include_entry.ok()) return include_entry.error();
  const auto network = message.boolean("allowNetworkMounts");
  if (!network.ok()) return network.error();
  CUBE_TRY(require_directory(at->path));
  if (!*network && is_network_mount(at->path))
    return make_error(ErrorCode::invalid_argument,
                      "path '" + at->path + "' is on a network file system, whose changes cannot be watched");
  return DirectoryWatcher::open(loop_, at->path, WatchOptions{*recursive, *include_entry});
}

asio::awaitable<Result<void>> FilesystemService::watch(std::shared_ptr<FilesystemService> self,
                                                       CallContext context, JsonObject message,
                                                       MessageSink& sink) {
  auto opened = self->open_watcher(context, message);
  if (!opened.ok()) co_return std::move(opened).error();
  const std::shared_ptr<DirectoryWatcher> watcher = std::move(*opened);
  sink.on_client_gone([weak = std::weak_ptr(watcher)] {
    if (const auto gone = weak.lock()) gone->close();
  });
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto expiry = context.deadline.value_or(std::chrono::steady_clock::time_point::max());

  auto sent = co_await sink.send("{\"start\":{}}");
  auto keepalive = now() + context.keepalive;
  while (sent.ok()) {
    co_await watcher->wait(std::min(keepalive, expiry));
    auto events = watcher->take();
    if (!events.ok()) co_return std::move(events).error();
    for (const WatchEvent& event : *events) {
      JsonWriter json;
      json.begin_object().key("filesystem");
      write_event(json, event);
      json.end_object();
      sent = co_await sink.send(json.take());
      if (!sent.ok()) co_return sent;
    }
    if (now() >= expiry)
      co_return make_error(ErrorCode::deadline_exceeded, "the time limit of the watch is over");
    if (events->empty() && now() >= keepalive) sent = co_await sink.send("{\"keepalive\":{}}");
    if (!events->empty() || now() >= keepalive) keepalive = now() + context.keepalive;
  }
  co_return sent;
}

Answer FilesystemService::create_watcher(const CallContext& context, const JsonObject& message) {
  if (watchers_.size() >= polled_watchers_limit)
    return make_error(ErrorCode::resource_exhausted, "there are " + std::to_string(polled_watchers_limit) +
                                                         " watchers already; remove some first");
  auto watcher = open_watcher(context, message);
  if (!watcher.ok()) return std::move(watcher).error();
  const std::string id = "w" + random_lowercase(20);
  watchers_.emplace(id, std::move(*watcher));
  JsonWriter json;
  json.begin_object().key("watcherId").value(id).end_object();
  return json.take();
}

Result<std::map<std::string, std::shared_ptr<DirectoryWatcher>>::iterator> FilesystemService::find_watcher(
    const JsonObject& message) {
  const auto id = message.string("watcherId");
  if (!id.ok()) return id.error();
  const auto found = watchers_.find(*id);
  if (found == watchers_.end())
    return make_error(ErrorCode::not_found, "watcher '" + *id + "' does not exist");
  return found;
}

Answer FilesystemService::watcher_events(const CallContext&, const JsonObject& message) {
  const auto found = find_watcher(message);
  if (!found.ok()) return found.error();
  const auto events = (*found)->second->take();
  if (!events.ok()) return events.error();
  JsonWriter json;
  json.begin_object().key("events").begin_array();
  for (const WatchEvent& event : *events) write_event(json, event);
  json.end_array().end_object();
  return json.take();
}

Answer FilesystemService::remove_watcher(const CallContext&, const JsonObject& message) {
  const auto found = find_watcher(message);
  if (!found.ok()) return found.error();
  (*found)->second->close();
  watchers_.erase(*found);
  return std::string("{}");
}

std::shared_ptr<FilesystemService> add_filesystem_service(Router& router, asio::any_io_executor loop,
                                                          const Settings& settings) {
  auto service = std::make_shared<FilesystemService>(std::move(loop), settings);
  service->add_to(router);
  return service;
}

}  // namespace cube::agent
