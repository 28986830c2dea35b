#include "vmm/process/messages.hpp"

#include <algorithm>

#include "vmm/state_codec.hpp"

namespace cube::vmm {
namespace {

static_assert(sizeof(ErrorCode) == sizeof(std::uint32_t) &&
              sizeof(StopReason::Kind) == sizeof(std::uint32_t));

struct EncodedRun {
  std::uint64_t memory_offset;
  std::uint64_t bytes;
  std::uint64_t file_offset;
  std::uint64_t file;
};

struct EncodedPageRun {
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t written;  ///< or 0
};

Error malformed() {
  return make_error(ErrorCode::corrupt, "a message between daemon and machine is malformed");
}

template <class T>
void put_list(StateWriter& out, std::span<const T> list) {
  out.put_bytes({reinterpret_cast<const char*>(list.data()), list.size_bytes()});
}

template <class T>
Result<std::vector<T>> get_list(StateReader& in) {
  const auto bytes = in.get_bytes();
  if (!bytes || bytes->size() % sizeof(T) != 0) return malformed();
  std::vector<T> list(bytes->size() / sizeof(T));
  if (!list.empty()) std::memcpy(list.data(), bytes->data(), bytes->size());
  return list;
}

void put_page_runs(StateWriter& out, std::span<const PageRun> runs) {
  std::vector<EncodedPageRun> encoded;
  for (const PageRun& run : runs) encoded.push_back({run.offset, run.bytes, run.written});
  put_list<EncodedPageRun>(out, encoded);
}

Result<void> get_page_runs(StateReader& in, std::vector<PageRun>& runs) {
  const auto encoded = get_list<EncodedPageRun>(in);
  if (!encoded) return encoded.error();
  for (const EncodedPageRun& run : *encoded) runs.push_back({run.offset, run.bytes, run.written != 0});
  return {};
}

/// What follows on them in a message that brings a guest.
StateReader behind_settings(std::string_view bytes) {
  return StateReader(bytes.substr(std::min(bytes.size(), sizeof(GuestSettings))));
}

std::uint64_t place_of(int file, std::vector<int>& files, std::size_t first) {
  const auto known = std::find(files.begin() + static_cast<std::ptrdiff_t>(first), files.end(), file);
  const auto place = static_cast<std::uint64_t>(known - files.begin()) - first;
  if (known == files.end()) files.push_back(file);
  return place;
}

}  // namespace

Result<GuestSettings> decode_settings(std::string_view bytes) {
  return StateReader(bytes).get<GuestSettings>();
}

std::string encode_boot(const GuestSettings& settings, std::string_view command_line) {
  return StateWriter().put(settings).put_bytes(command_line).take();
}

Result<std::string> decode_boot(std::string_view bytes) {
  const auto command_line = behind_settings(bytes).get_bytes();
  if (!command_line) return command_line.error();
  return std::string(*command_line);
}

std::string encode_restore(const GuestSettings& settings, const MachineState& state, const MemoryImage& image,
                           std::vector<int>& files) {
  const std::size_t first = files.size();
  files.push_back(image.base_fd);
  std::vector<EncodedRun> runs;
  for (const MemoryImage::Run& run : image.runs)
    runs.push_back({run.memory_offset, run.bytes, run.file_offset, place_of(run.fd, files, first)});
  StateWriter out;
  out.put(settings).put(static_cast<std::uint8_t>(image.observed)).put_bytes(state.bytes);
  put_list<EncodedRun>(out, runs);
  put_page_runs(out, image.working_set);
  put_page_runs(out, image.first_use);
  return out.take();
}

Result<RestoreRequest> decode_restore(std::string_view bytes, std::span<const Fd> files) {
  StateReader in = behind_settings(bytes);
  RestoreRequest request;
  const auto observed = in.get<std::uint8_t>();
  if (!observed) return observed.error();
  request.observed = *observed != 0;
  const auto state = in.get_bytes();
  if (!state) return state.error();
  request.state.bytes = *state;
  const auto runs = get_list<EncodedRun>(in);
  if (!runs) return runs.error();
  for (const EncodedRun& run : *runs) {
    if (run.file >= files.size()) return malformed();
    request.runs.push_back({run.memory_offset, run.bytes, files[run.file].get(), run.file_offset});
  }
  CUBE_TRY(get_page_runs(in, request.working_set));
  CUBE_TRY(get_page_runs(in, request.first_use));
  return request;
}

std::string encode_answer(const Result<std::string>& answer) {
  StateWriter out;
  out.put(static_cast<std::uint8_t>(answer.ok()));
  if (answer) return out.put_bytes(*answer).take();
  const Error& error = answer.error();
  return out.put(error.code).put(error.os_errno).put_bytes(error.message).put_bytes(error.object).take();
}

Result<std::string> decode_answer(std::string_view bytes) {
  StateReader in(bytes);
  const auto ok = in.get<std::uint8_t>();
  if (!ok) return ok.error();
  if (*ok != 0) {
    const auto answer = in.get_bytes();
    if (!answer) return answer.error();
    return std::string(*answer);
  }
  Error error;
  std::uint32_t code = 0;
  CUBE_TRY(in.get(code));
  CUBE_TRY(in.get(error.os_errno));
  const auto message = in.get_bytes();
  if (!message) return message.error();
  const auto object = in.get_bytes();
  if (!object) return object.error();
  error.code = code <= static_cast<std::uint32_t>(ErrorCode::internal) ? static_cast<ErrorCode>(code)
                                                                       : ErrorCode::internal;
  error.message = *message;
  error.object = *object;
  return error;
}

std::string encode_regions(std::span<const ProcessMemory::Region> regions) {
  StateWriter out;
  put_list(out, regions);
  return out.take();
}

Result<std::vector<ProcessMemory::Region>> decode_regions(std::string_view bytes) {
  StateReader in(bytes);
  return get_list<ProcessMemory::Region>(in);
}

std::string encode_stop(const StopReason& reason) {
  return StateWriter().put(reason.kind).put_bytes(reason.detail).take();
}

StopReason decode_stop(std::string_view bytes) {
  StateReader in(bytes);
  const auto kind = in.get<std::uint32_t>();
  const auto detail = in.get_bytes();
  if (!kind || !detail || *kind > static_cast<std::uint32_t>(StopReason::Kind::requested))
    return {StopReason::Kind::guest_error, "its process gave no reason"};
  return {static_cast<StopReason::Kind>(*kind), std::string(*detail)};
}

}  // namespace cube::vmm
