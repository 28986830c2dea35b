#include "watcher.hpp"

#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>

#include "entry.hpp"
#include "tree.hpp"

namespace cube::agent {

namespace {

constexpr std::uint32_t events_of_interest = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_MODIFY | IN_ATTRIB |
                                             IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;
constexpr std::size_t event_limit = 16384;           // as the kernel's own fs.inotify.max_queued_events
constexpr std::size_t event_bytes_limit = 16 << 20;  // names and entries of those
constexpr std::size_t directory_limit = 65536;
constexpr std::uint32_t depth_limit = 512;
constexpr std::size_t reads_per_wakeup = 16;

bool holds_data(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
}

}  // namespace

std::string_view to_string(WatchEventType type) {
  switch (type) {
    case WatchEventType::create: return "EVENT_TYPE_CREATE";
    case WatchEventType::write: return "EVENT_TYPE_WRITE";
    case WatchEventType::remove: return "EVENT_TYPE_REMOVE";
    case WatchEventType::rename: return "EVENT_TYPE_RENAME";
    case WatchEventType::chmod: return "EVENT_TYPE_CHMOD";
  }
  return "EVENT_TYPE_UNSPECIFIED";
}

DirectoryWatcher::DirectoryWatcher(Private, asio::any_io_executor loop, Fd inotify, std::string path,
                                   WatchOptions options)
    : path_(std::move(path)),
      options_(options),
      inotify_(loop, inotify.release()),
      changed_(loop, asio::steady_timer::time_point::max()) {}

Result<std::shared_ptr<DirectoryWatcher>> DirectoryWatcher::open(asio::any_io_executor loop, std::string path,
                                                                 WatchOptions options) {
  Fd inotify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify) return os_error(errno, "create a watcher");
  auto watcher =
      std::make_shared<DirectoryWatcher>(Private{}, loop, std::move(inotify), std::move(path), options);
  CUBE_TRY(watcher->add_watch(""));
  if (options.recursive) watcher->directory_appeared("", Announce::no);
  if (watcher->failure_) return *watcher->failure_;
  asio::co_spawn(loop, pump(watcher), asio::detached);
  return watcher;
}

asio::awaitable<void> DirectoryWatcher::wait(std::chrono::steady_clock::time_point deadline) {
  if (failure_ || !events_.empty()) co_return;
  changed_.expires_at(deadline);
  asio::error_code ignored;
  co_await changed_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

Result<std::vector<WatchEvent>> DirectoryWatcher::take() {
  drain();
  if (failure_) return *failure_;
  std::vector<WatchEvent> events(std::make_move_iterator(events_.begin()),
                                 std::make_move_iterator(events_.end()));
  events_.clear();
  event_bytes_ = 0;
  return events;
}

void DirectoryWatcher::close() { fail(make_error(ErrorCode::cancelled, "the watcher is closed")); }

// The pump keeps the watcher alive only while it handles events, so that an owner who lets go ends it: the
// descriptor's destructor ends the wait.
asio::awaitable<void> DirectoryWatcher::pump(std::weak_ptr<DirectoryWatcher> weak) {
  for (;;) {
    auto watcher = weak.lock();
    if (!watcher || watcher->failure_) co_return;
    auto& descriptor = watcher->inotify_;
    watcher.reset();
    asio::error_code error;
    co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                   asio::redirect_error(asio::use_awaitable, error));
    watcher = weak.lock();
    if (error || !watcher) co_return;
    watcher->drain();
  }
}

void DirectoryWatcher::drain() {
  alignas(inotify_event) char buffer[32 << 10];
  for (std::size_t count = 0; count < reads_per_wakeup && !failure_; ++count) {
    const ssize_t length = ::read(inotify_.native_handle(), buffer, sizeof buffer);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == EAGAIN) {
      announced_.clear();  // whatever was created before we read the directory has been reported by now
      return;
    }
    if (length <= 0) return fail(os_error(errno, "read the watcher"));
    for (std::size_t at = 0; at < static_cast<std::size_t>(length) && !failure_;) {
      inotify_event event;
      std::memcpy(&event, buffer + at, sizeof event);
      const char* name = buffer + at + sizeof event;
      handle(event, std::string_view(name, ::strnlen(name, event.len)));
      at += sizeof event + event.len;
    }
  }
}

void DirectoryWatcher::handle(const inotify_event& event, std::string_view name) {
  if (event.mask & IN_Q_OVERFLOW)
    return fail(make_error(ErrorCode::resource_exhausted, "too many events: some were lost"));
  const auto directory = directories_.find(event.wd);
  if (directory == directories_.end()) return;  // of a watch that was removed meanwhile
  if (event.mask & IN_IGNORED) {
    if (const auto watch = watches_.find(directory->second);
        watch != watches_.end() && watch->second == event.wd)
      watches_.erase(watch);
    directories_.erase(directory);
    return;
  }
  if (name.empty()) {
    // What happens to a sub-directory itself is reported by its parent's watch.
    if (directory->second.empty()) handle_root(event.mask);
    return;
  }
  const std::string full =
      directory->second.empty() ? std::string(name) : directory->second + '/' + std::string(name);
  const bool follow = options_.recursive && event.mask & IN_ISDIR;
  if (event.mask & (IN_CREATE | IN_MOVED_TO)) {
    const bool announced = announced_.erase(full) > 0;  // then it is watched already, too
    if (!announced) emit(WatchEventType::create, full);
    if (follow && !announced) directory_appeared(full, event.mask & IN_CREATE ? Announce::yes : Announce::no);
  }
  if (event.mask & IN_MOVED_FROM) {
    emit(WatchEventType::rename, full);
    if (follow) directory_moved_away(full);
  }
  if (event.mask & IN_ATTRIB) emit(WatchEventType::chmod, full);
  if (event.mask & IN_MODIFY) emit(WatchEventType::write, full);
  if (event.mask & IN_DELETE) emit(WatchEventType::remove, full);
}

void DirectoryWatcher::handle_root(std::uint32_t mask) {
  if (mask & IN_MOVE_SELF) emit(WatchEventType::rename, ".");
  if (mask & IN_ATTRIB) emit(WatchEventType::chmod, ".");
  if (mask & IN_DELETE_SELF) emit(WatchEventType::remove, ".");
}

// A new directory may have got entries before it could be watched (mkdir -p a/b/c): they are looked for after
// the watch is in place, and reported once; what a file holds by then has been written.
void DirectoryWatcher::directory_appeared(const std::string& name, Announce announce) {
  if (!name.empty()) {
    if (const auto added = add_watch(name); !added.ok()) {
      if (added.error().code == ErrorCode::resource_exhausted) fail(added.error());
      return;  // gone again, or replaced by something else: its own events tell
    }
  }
  auto walk = DirectoryWalk::open(absolute(name), depth_limit, directory_limit);
  if (!walk.ok()) return;
  for (;;) {
    const auto entry = walk->next();
    if (!entry.ok()) return fail(entry.error());
    if (!entry->has_value()) return;
    const std::string full = name.empty() ? **entry : name + '/' + **entry;
    // The walk enters a directory at the next step, after it is watched here.
    if (const auto added = add_watch(full);
        !added.ok() && added.error().code == ErrorCode::resource_exhausted)
      return fail(added.error());
    if (announce == Announce::yes && !announced_.contains(full)) {
      emit(WatchEventType::create, full);
      if (holds_data(absolute(full))) emit(WatchEventType::write, full);
      announced_.insert(full);
    }
    if (failure_) return;
  }
}

void DirectoryWatcher::directory_moved_away(const std::string& name) {
  const std::string below = name + '/';
  for (auto watch = watches_.lower_bound(name); watch != watches_.end();) {
    const bool inside = watch->first == name || watch->first.starts_with(below);
    if (!inside) {
      // Between "a" and "a/" there may be others, "a-b"; after those there is nothing more.
      if (watch->first > below) break;
      ++watch;
      continue;
    }
    ::inotify_rm_watch(inotify_.native_handle(), watch->second);
    directories_.erase(watch->second);
    watch = watches_.erase(watch);
  }
}

Result<void> DirectoryWatcher::add_watch(const std::string& name) {
  if (watches_.size() >= directory_limit)
    return make_error(
        ErrorCode::resource_exhausted,
        "'" + path_ + "' holds more than " + std::to_string(directory_limit) + " directories to watch");
  // Below the root links are not followed.
  const std::uint32_t mask = events_of_interest | IN_ONLYDIR | (name.empty() ? 0 : IN_DONT_FOLLOW);
  const std::string path = absolute(name);
  const int watch = ::inotify_add_watch(inotify_.native_handle(), path.c_str(), mask);
  if (watch < 0) {
    if (errno == ENOSPC)
      return make_error(ErrorCode::resource_exhausted,
                        "the system's limit of watches is reached (fs.inotify.max_user_watches)");
    return os_error(errno, "watch", path);
  }
  if (const auto known = directories_.find(watch); known != directories_.end()) watches_.erase(known->second);
  directories_[watch] = name;
  watches_[name] = watch;
  return {};
}

void DirectoryWatcher::emit(WatchEventType type, const std::string& name) {
  WatchEvent event{type, name, {}};
  if (options_.include_entry) {
    JsonWriter json;
    if (EntryWriter().append(json, name == "." ? path_ : absolute(name)).ok()) event.entry_json = json.take();
  }
  event_bytes_ += event.name.size() + event.entry_json.size();
  if (events_.size() == event_limit || event_bytes_ > event_bytes_limit)
    return fail(make_error(ErrorCode::resource_exhausted, "too many events: some were lost"));
  events_.push_back(std::move(event));
  changed_.cancel();
}

void DirectoryWatcher::fail(Error error) {
  if (failure_) return;
  failure_ = std::move(error);
  events_.clear();
  asio::error_code ignored;
  inotify_.close(ignored);
  changed_.cancel();
}

std::string DirectoryWatcher::absolute(const std::string& name) const {
  if (name.empty()) return path_;
  return path_ == "/" ? path_ + name : path_ + '/' + name;
}

}  // namespace cube::agent
