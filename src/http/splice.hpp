// What goes from socket to socket without being copied here (splice(2)).
#pragma once

#include <asio/awaitable.hpp>
#include <cstdint>
#include <cube/core.hpp>
#include <memory>

namespace cube::http {

/// Less is not worth a pipe.
inline constexpr std::uint64_t least_spliced = 1 << 20;

/// Moves up to `most` bytes; how many, which is less when `from` ends or breaks or there are no descriptors
/// for a pipe. An error is one of `to`, and what it has had then is not known. The process ignores SIGPIPE.
asio::awaitable<Result<std::uint64_t>> splice(std::shared_ptr<StreamSocket> from,
                                              std::shared_ptr<StreamSocket> to, std::uint64_t most);

}  // namespace cube::http
