// A multipart body must mean the same however it is split.
#include <cstdlib>

#include "multipart.hpp"

namespace {

class Recorder : public cube::agent::MultipartHandler {
 public:
  cube::Result<void> begin_part(cube::agent::PartHead head) override {
    text += head.name + head.file_name.value_or("") + '\1';
    return {};
  }
  cube::Result<void> part_data(std::string_view bytes) override {
    text += bytes;
    return {};
  }
  cube::Result<void> end_part() override {
    text += '\2';
    return {};
  }
  std::string text;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cube::agent;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  Recorder whole;
  MultipartParser at_once("b", whole);
  const bool whole_ok = at_once.feed(body).ok();

  Recorder pieces;
  MultipartParser piecewise("b", pieces);
  bool pieces_ok = true;
  for (std::size_t at = 0; at < size && pieces_ok; at += 7)
    pieces_ok = piecewise.feed(body.substr(at, 7)).ok();
  if (whole_ok != pieces_ok || (whole_ok && whole.text != pieces.text)) std::abort();

  (void)multipart_boundary(body).ok();
  (void)parse_content_disposition(body).ok();
  return 0;
}
