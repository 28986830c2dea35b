// In the machine's process: a connection of the daemon's, joined to one into the guest.
#pragma once

#include <asio/any_io_executor.hpp>
#include <cube/vmm.hpp>
#include <functional>

#include "vmm/process/link.hpp"

namespace cube::vmm {

/// Connects and relays until both directions have ended. On the loop. `on_reset` is called before the
/// daemon's end is closed if the guest's did not end as it should.
void relay(asio::any_io_executor loop, Machine& machine, ConnectRequest request, Fd socket,
           std::function<void()> on_reset);

}  // namespace cube::vmm
