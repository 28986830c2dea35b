// The tunnel: from a connection of the daemon to a TCP port of the guest (see cube/guest.hpp).
#pragma once

#include <asio/awaitable.hpp>
#include <cube/core.hpp>
#include <memory>

namespace cube::agent {

/// Reads the port, connects, answers, and then copies both ways until both directions have ended.
asio::awaitable<void> serve_tunnel(std::unique_ptr<Stream> connection);

}  // namespace cube::agent
