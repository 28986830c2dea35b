// The packet header of virtio-vsock. Virtio 1.2, section 5.10.6.
#pragma once

#include <cstdint>

namespace cube::vmm::virtio::vsock {

inline constexpr std::uint64_t host_cid = 2;
inline constexpr std::uint16_t stream_type = 1;  ///< VIRTIO_VSOCK_TYPE_STREAM, the only one served

enum class Op : std::uint16_t {
  invalid = 0,
  request = 1,
  response = 2,
  reset = 3,
  shutdown = 4,
  data = 5,
  credit_update = 6,
  credit_request = 7,
};

/// Flags of a shutdown: what its sender will no longer do.
inline constexpr std::uint32_t shutdown_receive = 1;
inline constexpr std::uint32_t shutdown_send = 2;
inline constexpr std::uint32_t shutdown_both = shutdown_receive | shutdown_send;

struct [[gnu::packed]] Header {
  std::uint64_t source_cid = 0;
  std::uint64_t destination_cid = 0;
  std::uint32_t source_port = 0;
  std::uint32_t destination_port = 0;
  std::uint32_t length = 0;  ///< of the payload that follows
  std::uint16_t type = stream_type;
  Op op = Op::invalid;
  std::uint32_t flags = 0;
  std::uint32_t buffer_size = 0;      ///< buf_alloc: the sender's whole receive buffer
  std::uint32_t forwarded_count = 0;  ///< fwd_cnt: bytes the sender's user has taken, modulo 2^32
};
static_assert(sizeof(Header) == 44);

/// The largest payload of one packet, in both directions.
inline constexpr std::uint32_t max_payload = 64u << 10;

}  // namespace cube::vmm::virtio::vsock
