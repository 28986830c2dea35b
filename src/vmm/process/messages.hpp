// What daemon and machine process say to each other, as bytes: fixed-size records, lengths in front, every
// read checked, because a guest that broke out of its machine may be the one who writes. The first message is
// the process': the regions of its shell's memory, with /proc/self/mem, pagemap, clear_refs and a pidfd. Then
// come calls, with these descriptors, in this order:
//
//   boot         link, the disk's socket, the tap if there is one, the kernel
//   restore      link, the disk's socket, the tap if there is one, each file of the image once
//   others       none
#pragma once

#include <cube/vmm.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cube::vmm {

/// What of a MachineConfig is not its descriptors.
struct GuestSettings {
  std::array<std::uint8_t, 16> generation_id;
  std::uint64_t disk_bytes;  ///< 0: there is none
  // Bytes, not bool: of those a message may hold others than two.
  std::uint8_t new_generation;
  std::uint8_t has_tap;
  std::uint8_t has_console;
};

struct RestoreRequest {
  MachineState state;
  std::vector<MemoryImage::Run> runs;
  std::vector<PageRun> working_set;
  std::vector<PageRun> first_use;
  bool observed = false;
};

/// What both that bring a guest begin with.
Result<GuestSettings> decode_settings(std::string_view bytes);

std::string encode_boot(const GuestSettings& settings, std::string_view command_line);
/// The command line.
Result<std::string> decode_boot(std::string_view bytes);

/// Appends the files, base first, to `files`; in the message they stand as indices.
std::string encode_restore(const GuestSettings& settings, const MachineState& state, const MemoryImage& image,
                           std::vector<int>& files);
/// `files` are those that came with it, base first.
Result<RestoreRequest> decode_restore(std::string_view bytes, std::span<const Fd> files);

/// Answers: an error, or bytes whose meaning depends on the call.
std::string encode_answer(const Result<std::string>& answer);
Result<std::string> decode_answer(std::string_view bytes);

std::string encode_regions(std::span<const ProcessMemory::Region> regions);
Result<std::vector<ProcessMemory::Region>> decode_regions(std::string_view bytes);

std::string encode_stop(const StopReason& reason);
StopReason decode_stop(std::string_view bytes);

}  // namespace cube::vmm
