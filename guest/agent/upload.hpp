// upload: one file that POST /files writes.
#pragma once

#include <cube/core.hpp>
#include <map>
#include <string>
#include <string_view>

#include "settings.hpp"

namespace cube::agent {

/// Without the prefix of extended attributes.
using Metadata = std::map<std::string, std::string>;

class Upload {
 public:
  Upload(std::string path, User user, Metadata metadata)
      : path_(std::move(path)), user_(std::move(user)), metadata_(std::move(metadata)) {}

  Result<void> write(std::string_view bytes);
  Result<void> finish();

  const std::string& path() const { return path_; }

 private:
  Result<void> open();
  Result<void> set_metadata();
  Result<void> write_now(std::string_view bytes);

  const std::string path_;
  const User user_;
  const Metadata metadata_;
  Fd file_;
  std::string buffer_;
};

}  // namespace cube::agent
