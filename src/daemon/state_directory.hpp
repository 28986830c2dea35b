// The state directory: one daemon at a time, one format version, private to its owner.
//
//   version      the format of everything here
//   lock         held by the running daemon
//   api-key      mode 0600
//   store.db     SQLite
//   templates/   one snapshot a template
//   images/      root file systems that templates are built from
//   scratch/     hidden files of running sandboxes; emptied at start-up
#pragma once

#include <cube/core.hpp>
#include <string>

namespace cube::daemon {

class StateDirectory {
 public:
  /// Creates what is missing. `already_exists` if another daemon uses it, `conflict` for another version.
  static Result<StateDirectory> open(const std::string& path);

  std::string store() const { return path_ + "/store.db"; }
  std::string templates() const { return path_ + "/templates"; }
  std::string scratch() const { return path_ + "/scratch"; }

  /// Four characters of [a-z0-9] that name this node in sandbox ids; made once.
  const std::string& node_tag() const { return node_tag_; }

 private:
  std::string path_;
  std::string node_tag_;
  Fd lock_;
};

/// Reads the key, or makes one ("e2b_" + 40 hexadecimal digits). `created` tells which.
struct ApiKey {
  std::string value;
  bool created = false;
};
Result<ApiKey> load_api_key(const std::string& path);

}  // namespace cube::daemon
