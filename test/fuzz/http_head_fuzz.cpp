// The request parser and the body reader over arbitrary bytes. Besides not crashing, what is parsed must not
// depend on where the network cut the bytes, which the input's first byte chooses.
#include <array>
#include <cstdlib>
#include <string>

#include "http/body.hpp"
#include "http/head.hpp"

using namespace cube::http;

namespace {

struct Outcome {
  HeadCollector::State head = HeadCollector::State::more;
  int refused = 0;
  std::string target, body;
  std::size_t consumed = 0;
  bool complete = false, malformed = false;

  bool operator==(const Outcome&) const = default;
};

void require(bool condition) {
  if (!condition) std::abort();
}

void read_body(BodyReader& reader, std::string_view input, std::size_t output_size, Outcome& outcome) {
  std::array<char, 64> output;
  for (;;) {
    const auto step = reader.read(input, asio::buffer(output.data(), output_size));
    require(step.consumed <= input.size() && step.produced <= output_size && step.produced <= step.consumed);
    if (step.consumed == 0) return;
    outcome.body.append(output.data(), step.produced);
    outcome.consumed += step.consumed;
    input.remove_prefix(step.consumed);
  }
}

Outcome parse(std::string_view input, std::size_t piece_size, std::size_t output_size) {
  const Limits limits{.head_bytes = 2048, .header_count = 16};
  HeadCollector collector(limits.head_bytes);
  BodyReader reader;
  Outcome outcome;
  while (!input.empty() && outcome.refused == 0) {
    std::string_view piece = input.substr(0, piece_size);
    input.remove_prefix(piece.size());
    if (outcome.head == HeadCollector::State::more) {
      std::size_t consumed = 0;
      outcome.head = collector.feed(piece, consumed);
      require(consumed <= piece.size());
      piece.remove_prefix(consumed);
      outcome.consumed += consumed;
      if (outcome.head == HeadCollector::State::more) continue;
      if (outcome.head != HeadCollector::State::complete) break;
      auto parsed = parse_request_head(collector.text(), limits);
      if (const auto* refusal = std::get_if<Refusal>(&parsed)) {
        require(refusal->status >= 400 && refusal->status < 600);
        outcome.refused = refusal->status;
        break;
      }
      const auto& request = std::get<ParsedRequest>(parsed);
      Headers again;  // what came in could go out again
      for (const auto& [name, value] : request.head.headers.fields()) again.add(name, value);
      require(check_headers(again).ok());
      require(request.head.headers.fields().size() <= limits.header_count + 1);
      outcome.target = request.head.target;
      reader = BodyReader(request.framing);
    }
    read_body(reader, piece, output_size, outcome);
  }
  outcome.complete = reader.complete();
  outcome.malformed = reader.malformed();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = parse(input, std::max<std::size_t>(input.size(), 1), 64);
  const Outcome pieces = parse(input, data[0] % 16 + 1, data[0] / 16 + 1);
  require(whole == pieces);
  return 0;
}
