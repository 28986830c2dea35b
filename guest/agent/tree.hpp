// tree: directories made, walked and removed, in bounded steps and without following links.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cube/core.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cube::agent {

/// Makes the missing ones of `path` and its parents, mode 0755, owned by the user. `invalid_argument` if
/// something that is not a directory is in the way.
Result<void> ensure_directories(const std::string& path, uid_t uid, gid_t gid);

/// "/a/b" to "/a"; the parent of "/" is "/".
std::string parent_of(const std::string& path);

/// What is under a directory, parents before children, siblings in lexical order. Links are not followed,
/// except `root` itself. What vanishes meanwhile is left out.
class DirectoryWalk {
 public:
  /// `depth` 1 is the directory's own entries. At most `limit` names are held.
  static Result<DirectoryWalk> open(const std::string& root, std::uint32_t depth, std::size_t limit);

  /// The next entry's path relative to the root, nothing at the end; `resource_exhausted` beyond the limit.
  Result<std::optional<std::string>> next();

 private:
  struct Level {
    std::string directory;  ///< relative to the root, "" or ending with '/'
    std::vector<std::string> names;
    std::size_t position = 0;
  };

  Result<void> enter(const std::string& directory);

  std::string root_;
  std::uint32_t depth_ = 1;
  std::size_t limit_ = 0;
  std::vector<Level> levels_;
  std::size_t held_ = 0;  ///< names in all levels
  std::string pending_;   ///< the entry returned last, entered next if it is a directory
};

/// Removes a file or a whole directory. Holds one descriptor however deep the tree is.
class TreeRemover {
 public:
  /// `path` is absolute and not "/". Nothing there is not an error.
  static Result<TreeRemover> open(const std::string& path);

  /// Removes some hundred entries; true when everything is gone.
  Result<bool> step();

 private:
  struct Level {
    std::string name;  ///< of the directory in its parent
    dev_t device;      ///< of the directory itself
    ino_t inode;
  };

  Result<bool> remove_root();
  Result<void> descend(std::string name);
  Result<void> ascend();

  std::string path_;
  std::string name_;
  Fd parent_;
  Fd directory_;  ///< the innermost of levels_
  std::vector<Level> levels_;
};

}  // namespace cube::agent
