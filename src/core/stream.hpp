// Stream: a bidirectional byte stream whose transport does not matter (TCP, a vsock connection into a guest).
#pragma once

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <cstddef>
#include <memory>

#include "core/result.hpp"

namespace cube {

using StreamSocket = asio::generic::stream_protocol::socket;

/// Used from one event loop only. At most one read and one write may be outstanding.
class Stream {
 public:
  virtual ~Stream() = default;

  /// At least one byte, or 0 at the peer's end of stream.
  virtual asio::awaitable<Result<std::size_t>> read_some(asio::mutable_buffer buffer) = 0;

  /// The whole buffer, or an error.
  virtual asio::awaitable<Result<void>> write(asio::const_buffer buffer) = 0;

  /// What of it is taken without waiting: how many bytes, possibly none. Errors show when the rest is
  /// written.
  virtual std::size_t write_now(asio::const_buffer) { return 0; }

  /// Half-close: the peer reads end of stream, reading here goes on.
  virtual void shutdown_write() = 0;

  /// Drops the connection; outstanding operations end with `cancelled`.
  virtual void close() = 0;

  /// The socket these very bytes come from and go to, for who has the kernel move them; null if there is
  /// none.
  virtual std::shared_ptr<StreamSocket> socket() { return nullptr; }
};

}  // namespace cube
