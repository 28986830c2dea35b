// What a stranger can say with a request for /files: signatures, ranges, codings, dates, boundaries.
#include <cstdint>
#include <cstdlib>
#include <cube/core.hpp>

#include "byte_range.hpp"
#include "conditions.hpp"
#include "content_coding.hpp"
#include "multipart.hpp"
#include "services.hpp"

using namespace cube;
using namespace cube::agent;

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void check_range(std::string_view text) {
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    const RangeChoice choice = choose_range(text, size);
    require(choice.first <= size && choice.length <= size - choice.first);
    if (choice.kind == RangeChoice::Kind::part) require(choice.length > 0);
  }
}

void check_dates(std::string_view text) {
  if (const auto date = parse_http_date(text)) require(parse_http_date(http_date(*date)) == date);
  if (const auto moment = parse_rfc3339(text)) {
    const auto again = parse_rfc3339(rfc3339(*moment));
    require(again && again->tv_sec == moment->tv_sec && again->tv_nsec == moment->tv_nsec);
  }
}

void check_signature(const std::string& text) {
  Settings settings;
  settings.access_token = "secret";
  http::RequestHead head{"POST", "/files?" + text, {}};
  require(!check_files_signature(head, settings).ok());  // nobody guesses SHA-256
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  check_range(text);
  check_dates(text);
  check_signature(text);
  (void)choose_coding(text);
  if (const auto boundary = multipart_boundary(text); boundary.ok()) require(boundary->size() <= 70);
  if (text.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos) {
    http::Headers headers;
    for (const char* name :
         {"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"})
      headers.set(name, text);
    (void)check_conditions(headers, 1'700'000'000);
    (void)range_applies(headers, 1'700'000'000);
  }
  return 0;
}
