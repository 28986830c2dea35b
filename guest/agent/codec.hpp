// Codec: how the messages of one call are written. The services see JSON whatever the client speaks.
#pragma once

#include <cube/core.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "protobuf_schema.hpp"
#include "rpc.hpp"

namespace cube::agent {

class Codec {
 public:
  /// The codec of a content type: "application/json" and "application/proto" for unary calls,
  /// "application/connect+json" and "application/connect+proto" for streams. Nothing for others, and for
  /// protobuf of a method that protobuf_schema.hpp does not have.
  static std::optional<Codec> choose(std::string_view content_type, std::string_view path, bool unary);

  /// JSON.
  Codec() = default;

  /// What responses of the codec say they are.
  std::string content_type(bool unary) const;

  Result<JsonObject> decode(std::string message) const;
  Result<std::string> encode(std::string json) const;

 private:
  const protobuf::MethodTypes* types_ = nullptr;  ///< null: JSON
};

/// The compression of requests; responses are never compressed.
enum class Compression { identity, gzip };

/// "", "identity" or "gzip"; `unimplemented` for others.
Result<Compression> compression_of(std::string_view encoding);

}  // namespace cube::agent
