// The transcoder: protobuf of every request, JSON of every response. What it accepts must come back the same
// from the other side. The first byte chooses the message and the direction.
#include <cstdint>

#include "protobuf_transcoder.hpp"

using namespace cube::agent;

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

/// JSON from to_json() is the one form of the message: it survives the way there and back.
void check_round_trip(const protobuf::Message& type, const std::string& json) {
  const auto wire = protobuf::from_json(type, json);
  require(wire.ok());
  const auto again = protobuf::to_json(type, *wire);
  require(again.ok() && *again == json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto methods = protobuf::all_methods();
  const auto& method = methods[data[0] / 4 % methods.size()];
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const protobuf::Message& type = data[0] % 2 ? *method.request : *method.response;
  if (data[0] / 2 % 2 == 0) {
    const auto json = protobuf::to_json(type, text);
    if (json.ok()) check_round_trip(type, *json);
  } else {
    const auto wire = protobuf::from_json(type, text);
    if (!wire.ok()) return 0;
    const auto json = protobuf::to_json(type, *wire);
    require(json.ok());
    check_round_trip(type, *json);
  }
  return 0;
}
