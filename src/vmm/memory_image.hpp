// Puts a MemoryImage where a shell has reserved its guest memory.
#pragma once

#include <cstddef>
#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <span>

namespace cube::vmm {

/// Maps the base MAP_PRIVATE over the whole of `memory`, which may already be KVM's memory slots: KVM follows
/// through its MMU notifier. Above it at most 16 runs of at least 64 KiB are mapped, the largest, and the
/// others copied. `corrupt` if the runs do not fit the memory, overlap, or a file is shorter than what is
/// wanted of it, since touching a mapping past the file's end would raise SIGBUS.
Result<void> map_image(std::span<std::byte> memory, const MemoryImage& image);

}  // namespace cube::vmm
