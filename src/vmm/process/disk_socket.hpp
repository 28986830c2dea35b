// A machine's disk across processes: the device is in the machine's, the backend and its files in the
// daemon. One request at a time, as the device makes them.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cube/vmm.hpp>
#include <functional>
#include <memory>

namespace cube::vmm {

/// In the machine's process. `socket` is one end of a pair of type SOCK_SEQPACKET.
std::shared_ptr<BlockBackend> make_remote_disk(Fd socket, std::uint64_t capacity_bytes);

/// In the daemon: answers the other end. Nothing reaches the backend but whole sectors inside it, and none
/// while the machine is paused.
class DiskServer {
 public:
  virtual ~DiskServer() = default;

  /// Lets requests through, or none any more: a request that comes all the same breaks the rules. close()
  /// returns when none is in flight. Closed at first.
  virtual void open() = 0;
  virtual void close() = 0;

  /// close() for good; the backend is released.
  virtual void retire() = 0;
};

/// Requests are served on `executor`, which may block. `on_violation` is called once at most, from there.
Result<std::shared_ptr<DiskServer>> serve_disk(asio::any_io_executor executor, Fd socket,
                                               std::shared_ptr<BlockBackend> backend,
                                               std::function<void()> on_violation);

}  // namespace cube::vmm
