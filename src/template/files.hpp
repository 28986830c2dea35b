// File work of template builds. Everything blocks.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <string>

namespace cube::templates {

/// Copies an image to a new file of at least `bytes` (0: the image's own size): by reflink where the file
/// system can, else data only, so that holes and zeros stay holes. Synced. The number of bytes of the copy.
Result<std::uint64_t> copy_image(const std::string& from, const std::string& to, std::uint64_t bytes);

/// Makes an ext4 file system fill its (larger) image: e2fsck and resize2fs of e2fsprogs.
Result<void> grow_ext4(const std::string& image);

}  // namespace cube::templates
