#include "codec.hpp"

#include "protobuf_transcoder.hpp"
#include "text.hpp"

namespace cube::agent {

std::optional<Codec> Codec::choose(std::string_view content_type, std::string_view path, bool unary) {
  Codec codec;
  if (same_ignoring_case(media_type(content_type), codec.content_type(unary))) return codec;
  codec.types_ = protobuf::find_method(path);
  if (codec.types_ && same_ignoring_case(media_type(content_type), codec.content_type(unary))) return codec;
  return std::nullopt;
}

std::string Codec::content_type(bool unary) const {
  return std::string(unary ? "application/" : "application/connect+") + (types_ ? "proto" : "json");
}

Result<JsonObject> Codec::decode(std::string message) const {
  if (!types_) return JsonObject::parse(std::move(message));
  auto json = protobuf::to_json(*types_->request, message);
  if (!json.ok()) return std::move(json).error();
  return JsonObject::parse(std::move(*json));
}

Result<std::string> Codec::encode(std::string json) const {
  if (!types_) return json;
  return protobuf::from_json(*types_->response, json);
}

Result<Compression> compression_of(std::string_view encoding) {
  if (encoding.empty() || same_ignoring_case(encoding, "identity")) return Compression::identity;
  if (same_ignoring_case(encoding, "gzip")) return Compression::gzip;
  return make_error(ErrorCode::unimplemented,
                    "unknown compression '" + std::string(encoding) + "': supported are gzip and identity");
}

}  // namespace cube::agent
