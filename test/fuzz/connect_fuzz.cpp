// Envelopes in two pieces, then their JSON.
#include "connect_stream.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cube::agent;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t split = size == 0 ? 0 : data[0] % size;
  EnvelopeParser parser;
  for (const auto piece : {bytes.substr(0, split), bytes.substr(split)}) {
    parser.append(piece);
    for (;;) {
      auto next = parser.next();
      if (!next.ok()) return 0;
      if (!next->has_value()) break;
      const auto object = JsonObject::parse(std::move((**next).payload));
      if (!object.ok()) continue;
      for (const auto* name : {"path", "process", "a"}) {
        (void)object->string(name).ok();
        (void)object->integer(name).ok();
        (void)object->bytes(name).ok();
        (void)object->strings(name).ok();
        (void)object->string_map(name).ok();
        (void)object->object(name).ok();
      }
    }
  }
  return 0;
}
