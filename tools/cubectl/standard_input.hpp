// Standard input, read on the event loop.
//
// It is shared with whoever started us, the user's shell for one, so it must not become non-blocking: that is
// a property of the open file, and would outlive us. So readiness is asked of an epoll descriptor of our own,
// and reads block, though never for long. Regular files have no readiness: they are read at once.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <cube/core.hpp>
#include <optional>
#include <string>

namespace cube::cubectl {

class StandardInput {
 public:
  static Result<StandardInput> open(asio::any_io_executor loop);

  /// At least one byte, at most `limit`; empty at the end.
  asio::awaitable<Result<std::string>> read(std::size_t limit);

 private:
  StandardInput() = default;
  std::optional<asio::posix::stream_descriptor> readiness_;
};

/// All of it, to a descriptor that blocks or does not. A reader that is gone is `cancelled`.
Result<void> write_out(int descriptor, std::string_view bytes);

}  // namespace cube::cubectl
