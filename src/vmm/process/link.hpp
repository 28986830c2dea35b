// What passes between daemon and machine process without being a call: connections into the guest are asked
// for, and the machine tells what happens to it. Packets on a socket of type SOCK_SEQPACKET.
#pragma once

#include <cstdint>
#include <string_view>

namespace cube::vmm {

/// To the process, with one end of a stream socket. The answer comes on it: a byte, 0 or 1 + the ErrorCode;
/// after a 0 the socket is the connection. With the number 0 and no socket: Machine::expect_use().
struct ConnectRequest {
  std::uint64_t connection;  ///< a number of the daemon's, from 1
  std::uint32_t guest_port;
  std::uint32_t timeout_ms;
};

/// To the daemon: this, then what belongs to it.
enum class Event : std::uint32_t {
  stopped,  ///< an encoded StopReason
  console,  ///< a piece of output
  reset,    ///< a connection's number, before its socket is closed: it did not end as it should
};

inline constexpr std::size_t most_event_bytes = 16u << 10;

}  // namespace cube::vmm
