// Directories that appear whole and disappear at once.
//
// Under construction a directory is called ".tmp-<random>", under deletion ".del-<random>", beside where it
// belongs; whatever a crash leaves has one of these names.
#pragma once

#include <cube/core.hpp>
#include <string>

namespace cube::snapshot {

/// Where a directory lies and what it is called there.
struct Location {
  std::string parent;
  std::string name;
};

/// `invalid_argument` for a path without a last component.
Result<Location> locate(std::string path);

/// A directory under construction; removed with its content unless it is published.
class PendingDirectory {
 public:
  static Result<PendingDirectory> create(const std::string& target);
  static Result<PendingDirectory> create_beside(const std::string& existing);  ///< for publish_over

  PendingDirectory(PendingDirectory&&) = default;
  PendingDirectory& operator=(PendingDirectory&&) = delete;
  ~PendingDirectory();

  int fd() const { return directory_.get(); }

  /// Syncs the directory (its files are synced by whoever wrote them), gives it its name, syncs the parent.
  /// `already_exists`.
  Result<void> publish();

  /// The same in the place of an existing directory, which is deleted afterwards.
  Result<void> publish_over();

 private:
  PendingDirectory(Location target, std::string temporary, Fd parent, Fd directory);
  static Result<PendingDirectory> make(const std::string& target, bool must_be_new);

  Location target_;
  std::string temporary_;  // name in the parent
  Fd parent_;
  Fd directory_;  // none once published or moved from
};

/// `not_found`; `invalid_argument` for something that is no directory.
Result<void> remove_directory(const std::string& path);

/// Deletes directories with temporary names in `parent`, and nothing else; goes on after errors and returns
/// the first.
Result<void> remove_temporary_directories(const std::string& parent);

}  // namespace cube::snapshot
