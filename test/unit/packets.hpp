// A connection on which every write is a packet, so that tests see what goes out together.
#pragma once

#include <sys/socket.h>

#include <utility>

#include "event_loop.hpp"

namespace cube::test {

/// Both ends: what one writes at once the other reads at once, and nothing with it.
inline std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_packet_pair(asio::io_context& loop) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) throw TestError("no socket pair");
  const asio::generic::stream_protocol protocol(AF_UNIX, SOCK_SEQPACKET);
  asio::generic::stream_protocol::socket first(loop, protocol, ends[0]), second(loop, protocol, ends[1]);
  return {make_socket_stream(std::move(first)), make_socket_stream(std::move(second))};
}

inline asio::awaitable<std::string> read_packet(Stream& stream) {
  char buffer[4096];
  const auto count = co_await stream.read_some(asio::buffer(buffer));
  co_return count.ok() ? std::string(buffer, *count) : "failed";
}

}  // namespace cube::test
