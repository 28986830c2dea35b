#include "http/body.hpp"

#include <algorithm>
#include <cstring>

namespace cube::http {
namespace {

// Extensions and trailers are skipped, never kept; still nobody needs this many in one place.
constexpr std::size_t overhead_limit = 16 << 10;
constexpr std::uint64_t chunk_limit = std::uint64_t{1} << 60;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; }

}  // namespace

BodyReader::BodyReader(Framing framing) : kind_(framing.kind) {
  switch (framing.kind) {
    case Framing::Kind::none: state_ = State::complete; break;
    case Framing::Kind::length:
      remaining_ = framing.length;
      state_ = remaining_ == 0 ? State::complete : State::data;
      break;
    case Framing::Kind::chunked: state_ = State::chunk_size_first; break;
    case Framing::Kind::until_end: state_ = State::data; break;
  }
}

BodyReader::Step BodyReader::read(std::string_view input, asio::mutable_buffer output) {
  Step step;
  while (step.consumed < input.size() && !complete() && !malformed()) {
    if (state_ != State::data && state_ != State::chunk_data) {
      step_framing(input[step.consumed++]);
      continue;
    }
    std::size_t count = std::min(input.size() - step.consumed, output.size() - step.produced);
    if (kind_ != Framing::Kind::until_end)
      count = static_cast<std::size_t>(std::min<std::uint64_t>(count, remaining_));
    if (count == 0) break;
    std::memcpy(static_cast<char*>(output.data()) + step.produced, input.data() + step.consumed, count);
    step.consumed += count;
    step.produced += count;
    overhead_ = 0;
    if (kind_ == Framing::Kind::until_end) continue;
    remaining_ -= count;
    if (remaining_ == 0) state_ = state_ == State::data ? State::complete : State::chunk_data_cr;
  }
  return step;
}

std::size_t BodyReader::take(std::string_view input) {
  if (state_ != State::data) return 0;
  if (kind_ == Framing::Kind::until_end) return input.size();
  const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(input.size(), remaining_));
  skip(count);
  return count;
}

void BodyReader::skip(std::uint64_t count) {
  remaining_ -= count;
  if (remaining_ == 0) state_ = State::complete;
}

bool BodyReader::end_of_stream() {
  if (kind_ == Framing::Kind::until_end && !malformed()) state_ = State::complete;
  return complete();
}

void BodyReader::add_size_digit(char c) {
  const int digit = hex_digit(c);
  if (digit < 0 || remaining_ >= chunk_limit >> 4) {
    state_ = State::malformed;
    return;
  }
  remaining_ = remaining_ << 4 | static_cast<unsigned>(digit);
  state_ = State::chunk_size;
}

void BodyReader::step_framing(char c) {
  if (++overhead_ > overhead_limit) {
    state_ = State::malformed;
    return;
  }
  const auto expect = [&](char wanted, State next) { state_ = c == wanted ? next : State::malformed; };
  switch (state_) {
    case State::chunk_size_first:
      remaining_ = 0;
      add_size_digit(c);
      break;
    case State::chunk_size:
      if (c == '\r')
        state_ = State::chunk_size_lf;
      else if (c == ';')
        state_ = State::chunk_extension;
      else
        add_size_digit(c);
      break;
    case State::chunk_extension:
      if (c == '\r')
        state_ = State::chunk_size_lf;
      else if (is_control(c))
        state_ = State::malformed;
      break;
    case State::chunk_size_lf:
      expect('\n', remaining_ == 0 ? State::trailer_first : State::chunk_data);
      break;
    case State::chunk_data_cr: expect('\r', State::chunk_data_lf); break;
    case State::chunk_data_lf: expect('\n', State::chunk_size_first); break;
    case State::trailer_first:
      if (c == '\r')
        state_ = State::end_lf;
      else
        state_ = is_control(c) ? State::malformed : State::trailer;
      break;
    case State::trailer:
      if (c == '\r')
        state_ = State::trailer_lf;
      else if (is_control(c))
        state_ = State::malformed;
      break;
    case State::trailer_lf: expect('\n', State::trailer_first); break;
    case State::end_lf: expect('\n', State::complete); break;
    case State::data:
    case State::chunk_data:
    case State::complete:
    case State::malformed: break;
  }
}

}  // namespace cube::http
