// What the process of a machine may say to the daemon, and what it makes of what the daemon says.
#include <cstddef>
#include <cstdint>

#include "vmm/process/messages.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cube::vmm;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  static const std::vector<cube::Fd> files(3);
  static_cast<void>(decode_answer(bytes));
  static_cast<void>(decode_regions(bytes));
  static_cast<void>(decode_stop(bytes));
  static_cast<void>(decode_boot(bytes));
  static_cast<void>(decode_restore(bytes, files));
  return 0;
}
