// Connected sockets as streams.
#pragma once

#include <memory>

#include "core/stream.hpp"

namespace cube {

/// A connected stream socket, of any family.
std::unique_ptr<Stream> make_socket_stream(StreamSocket socket);

/// `cancelled` for what was closed here, `unavailable` when the peer or the way to it is gone.
Error socket_error(const asio::error_code& error, const char* operation);

}  // namespace cube
