// entry: what the filesystem service says about one file (EntryInfo of filesystem.proto).
#pragma once

#include <sys/stat.h>

#include <cube/core.hpp>
#include <map>
#include <string>

namespace cube::agent {

/// Files' metadata are the extended attributes of this prefix.
inline constexpr std::string_view metadata_prefix = "user.e2b.";

/// Go's spelling of a mode: "-rw-r--r--", "drwxr-xr-x", "Lrwxrwxrwx", "dtrwxrwxrwx".
std::string permission_string(mode_t mode);

/// Without the prefix; empty where the file system has no extended attributes. Never follows a link.
std::map<std::string, std::string> read_metadata(const std::string& path);

/// Writes EntryInfo objects. Remembers names of users and groups, so one object should not outlive one
/// request.
class EntryWriter {
 public:
  /// `not_found` if nothing is at `path`.
  Result<void> append(JsonWriter& json, const std::string& path);

 private:
  std::map<uid_t, std::string> users_;
  std::map<gid_t, std::string> groups_;
};

}  // namespace cube::agent
