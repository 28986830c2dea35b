// Envelopes in two pieces, then their messages in either codec, compressed or not. The first byte chooses the
// codec and the method, the second where the bytes are cut.
#include <algorithm>

#include "connect_stream.hpp"
#include "gzip.hpp"

using namespace cube::agent;

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void read_members(const JsonObject& object) {
  for (const auto* name : {"path", "process", "a"}) {
    (void)object.string(name).ok();
    (void)object.integer(name).ok();
    (void)object.boolean(name).ok();
    (void)object.bytes(name).ok();
    (void)object.strings(name).ok();
    (void)object.string_map(name).ok();
    (void)object.object_count(name).ok();
    (void)object.object(name).ok();
  }
}

/// Gzip as a client would send it.
std::string compress(std::string_view text) {
  GzipWriter gzip;
  gzip.set_input(text, true);
  std::string packed;
  char piece[64];
  while (const std::size_t count = gzip.write(asio::buffer(piece))) packed.append(piece, count);
  return packed;
}

/// A message means the same compressed.
void check_compression(const Envelope& envelope, const Codec& codec) {
  const std::string packed = compress(envelope.payload);
  const auto unpacked = decompress(packed, envelope.payload.size());
  require(unpacked.ok() && *unpacked == envelope.payload);
  if (!envelope.payload.empty()) require(!decompress(packed, envelope.payload.size() - 1).ok());
  const auto plain = open_envelope(Envelope{0, envelope.payload}, codec, Compression::gzip);
  const auto compressed = open_envelope(Envelope{compressed_flag, packed}, codec, Compression::gzip);
  require(plain.ok() == compressed.ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const auto methods = protobuf::all_methods();
  const auto path = methods[data[0] / 2 % methods.size()].path;
  const auto codec = Codec::choose(data[0] % 2 ? "application/proto" : "application/json", path, true);
  require(codec.has_value());
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t split = std::min<std::size_t>(data[1], bytes.size());

  EnvelopeParser parser;
  for (const auto piece : {bytes.substr(0, split), bytes.substr(split)}) {
    parser.append(piece);
    for (;;) {
      auto next = parser.next();
      if (!next.ok()) return 0;
      if (!next->has_value()) break;
      if (data[1] % 8 == 7) check_compression(**next, *codec);  // a deflate state is slow to set up
      const auto object = open_envelope(std::move(**next), *codec, Compression::gzip);
      if (object.ok()) read_members(*object);
    }
  }
  return 0;
}
