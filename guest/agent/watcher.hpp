// DirectoryWatcher: what happens in a directory, over inotify, in the words of fsnotify, which envd uses.
//
// One inotify event becomes one event here: created or moved in: create; moved out: rename; attributes:
// chmod; modified: write; deleted: remove. Names are relative to the watched directory, which itself is ".".
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cube/core.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

struct inotify_event;

namespace cube::agent {

enum class WatchEventType { create, write, remove, rename, chmod };

/// "EVENT_TYPE_CREATE"
std::string_view to_string(WatchEventType type);

struct WatchEvent {
  WatchEventType type;
  std::string name;
  std::string
      entry_json;  ///< EntryInfo at that moment; empty if not asked for or if nothing is there any more
};

struct WatchOptions {
  bool recursive = false;  ///< new sub-directories are watched as they come
  bool include_entry = false;
};

class DirectoryWatcher : public std::enable_shared_from_this<DirectoryWatcher> {
 public:
  /// Watches from now on, until `close` or the last owner is gone. The path must be a directory.
  static Result<std::shared_ptr<DirectoryWatcher>> open(asio::any_io_executor loop, std::string path,
                                                        WatchOptions options);

  /// Returns when there are events, the watcher failed or was closed, or the deadline passed. One waiter at a
  /// time.
  asio::awaitable<void> wait(std::chrono::steady_clock::time_point deadline);

  /// The events since the last call, with what inotify holds of them. Once they have overflowed, and after
  /// `close`, always an error.
  Result<std::vector<WatchEvent>> take();

  void close();

 private:
  struct Private {};

 public:
  DirectoryWatcher(Private, asio::any_io_executor loop, Fd inotify, std::string path, WatchOptions options);

 private:
  enum class Announce { no, yes };

  static asio::awaitable<void> pump(std::weak_ptr<DirectoryWatcher> weak);
  void drain();
  void handle(const inotify_event& event, std::string_view name);
  void handle_root(std::uint32_t mask);
  void directory_appeared(const std::string& name, Announce announce);
  void directory_moved_away(const std::string& name);
  Result<void> add_watch(const std::string& name);
  void emit(WatchEventType type, const std::string& name);
  void fail(Error error);
  std::string absolute(const std::string& name) const;

  const std::string path_;
  const WatchOptions options_;
  asio::posix::stream_descriptor inotify_;
  asio::steady_timer changed_;
  std::map<int, std::string> directories_;  ///< by watch descriptor: name relative to path_, "" for itself
  std::map<std::string, int, std::less<>> watches_;  ///< the other way round
  std::set<std::string, std::less<>> announced_;     ///< found by reading, their own events may still come
  std::deque<WatchEvent> events_;
  std::size_t event_bytes_ = 0;
  std::optional<Error> failure_;
};

}  // namespace cube::agent
