// Files without a name: what a top layer is until it is frozen, so that nothing is left behind by a crash.
#pragma once

#include <cube/core.hpp>
#include <string>

namespace cube::disk {

/// O_TMPFILE; on file systems that lack it open_unlinked_file().
Result<Fd> open_unnamed_file(const std::string& directory);

/// A file unlinked at once. It cannot have a name again.
Result<Fd> open_unlinked_file(const std::string& directory);

/// Gives a synced file its name and makes the name durable. `already_exists`; `unimplemented` for an unlinked
/// file.
Result<void> link_unnamed_file(int fd, const std::string& path);

}  // namespace cube::disk
