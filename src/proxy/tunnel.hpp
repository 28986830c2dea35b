// Tunnel: two raw connections joined after a switch of protocols (WebSocket).
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <cube/core.hpp>
#include <memory>

namespace cube::proxy {

/// Returns when both are closed. The client's end closes the guest at once; the guest's end lets the client
/// read what was sent, for a moment.
asio::awaitable<void> run_tunnel(asio::any_io_executor loop, std::unique_ptr<Stream> client,
                                 std::unique_ptr<Stream> guest);

}  // namespace cube::proxy
