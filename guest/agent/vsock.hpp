// AF_VSOCK: connections from the daemon, as streams.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cstdint>
#include <cube/core.hpp>
#include <functional>
#include <memory>

namespace cube::agent {

/// Accepts connections until destroyed.
class VsockListener {
 public:
  using OnConnection = std::function<void(std::unique_ptr<Stream>)>;

  static Result<std::unique_ptr<VsockListener>> listen(asio::any_io_executor loop, std::uint32_t port,
                                                       OnConnection on_connection);
  ~VsockListener();
  VsockListener(const VsockListener&) = delete;
  VsockListener& operator=(const VsockListener&) = delete;

 private:
  struct Acceptor;
  explicit VsockListener(std::shared_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}

  std::shared_ptr<Acceptor> acceptor_;
};

}  // namespace cube::agent
