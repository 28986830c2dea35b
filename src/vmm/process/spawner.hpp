// The process that machines' processes are forked from: small, with one thread, and without any secret.
#pragma once

#include <cube/core.hpp>
#include <memory>

#include "vmm/process/host.hpp"

namespace cube::vmm {

class Spawner {
 public:
  /// Forks it. The calling process has one thread.
  static Result<Spawner> start(int kvm_fd, const std::shared_ptr<const HostProfile>& host);

  /// A new process, at the other end of the channel, which is about to answer the order. That there is none
  /// shows at the first use. One thread at a time.
  Result<Fd> spawn(const ShellShape& shape);

 private:
  explicit Spawner(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
};

}  // namespace cube::vmm
