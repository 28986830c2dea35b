// Connection: one vsock connection seen from the host, its states and its flow control (virtio 1.2, section
// 5.10.6.3). It neither locks nor waits: packets go in, packets come out, and it says whom to wake.
//
// Data is never queued on the way to the guest: a packet takes its payload straight from the writer's buffer,
// and a write is done when its last byte lies in the guest's receive ring. On the way back bytes go into the
// waiting reader's buffer first and only the rest is kept, at most the credit the guest was given.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <optional>
#include <span>
#include <vector>

#include "vmm/virtio/vsock_packet.hpp"
#include "vmm/virtio/vsock_receive_buffer.hpp"

namespace cube::vmm::virtio::vsock {

class Connection {
 public:
  enum class State {
    connecting,   ///< REQUEST sent or about to be
    established,  ///< either direction may be shut down already
    closing,      ///< the host closed it: SHUTDOWN sent or about to be, the guest's RST is awaited
    closed,
  };

  /// The credit a guest gets for each connection.
  static constexpr std::uint32_t buffer_size = 256u << 10;

  Connection(std::uint32_t host_port, std::uint32_t guest_port)
      : host_port_(host_port), guest_port_(guest_port) {}

  std::uint32_t host_port() const { return host_port_; }
  std::uint32_t guest_port() const { return guest_port_; }
  State state() const { return state_; }

  /// Closed, and the guest has been told if it had to be: nothing remembers the connection any more.
  bool finished() const { return state_ == State::closed && !reset_pending_; }

  /// Whether the guest has heard of it, or will from what lies in its ring already.
  bool known_to_guest() const { return !request_pending_; }

  /// Why it is closed. Precondition: closing or closed.
  const Error& failure() const { return *failure_; }

  // --- Guest to host ---

  /// A packet of this connection whose payload begins at `offset` of `buffers` and is there in full. Whatever
  /// breaks the protocol resets the connection.
  void receive(const Header& header, const std::vector<iovec>& buffers, std::size_t offset);

  // --- Host to guest ---

  bool wants_to_send() const;

  /// The next packet, but for the CIDs; its payload is what `payload` is set to, at most `room` bytes.
  /// Precondition: wants_to_send().
  Header next_packet(std::size_t room, std::span<const std::byte>& payload);

  // --- The host's end ---

  /// Gives the connection a buffer to fill; one at a time.
  void begin_read(std::span<std::byte> buffer);
  /// The read's result, none while it waits: bytes, 0 at the end of the guest's stream, or why there will be
  /// none.
  std::optional<Result<std::size_t>> read_result() const;
  void end_read();

  /// Gives the connection bytes to send; one buffer at a time, valid until end_write().
  void begin_write(std::span<const std::byte> bytes);
  /// Success once everything is in the guest's ring, none before that.
  std::optional<Result<void>> write_result() const;
  void end_write();

  /// The guest reads end of stream after what was written.
  void shutdown_write();

  /// The host is done with it. The guest reads end of stream if nothing written is missing, otherwise the
  /// connection is reset.
  void close();

  /// Ends it here and now: the guest is told by a reset if it knows of the connection. An earlier end stays
  /// the reason.
  void abort(Error reason);

  /// Ends it without telling the guest, which no longer knows it.
  void forget(Error reason);

  /// Whose result may be there now; asking clears it.
  struct Wakeups {
    bool reader = false;  ///< also who waits for the connection to be established
    bool writer = false;
  };
  Wakeups take_wakeups();

 private:
  void receive_data(std::uint32_t length, const std::vector<iovec>& buffers, std::size_t offset);
  void receive_shutdown(std::uint32_t flags);
  void update_credit(const Header& header);
  std::uint32_t credit() const;
  void consumed(std::size_t bytes);
  void violate(const char* what);
  void end(Error reason);
  void drop_writer();
  Header make_header(Op op);

  const std::uint32_t host_port_;
  const std::uint32_t guest_port_;
  State state_ = State::connecting;
  std::optional<Error> failure_;
  bool host_done_ = false;  // nobody will look at the connection again
  Wakeups wakeups_;

  std::uint32_t guest_shutdown_ = 0;  // the flags of all its SHUTDOWNs together
  bool write_shut_ = false;

  // Packets that are due.
  bool request_pending_ = true;
  bool reset_pending_ = false;
  bool shutdown_pending_ = false;
  bool credit_update_pending_ = false;
  bool credit_request_pending_ = false;

  // Byte counts are modulo 2^32, as on the wire.
  std::uint32_t sent_ = 0;
  std::uint32_t guest_buffer_size_ = 0;
  std::uint32_t guest_forwarded_ = 0;
  std::uint32_t forwarded_ = 0;             // what our reader has taken
  std::uint32_t advertised_forwarded_ = 0;  // what the guest knows of it

  ReceiveBuffer received_;
  std::span<std::byte> reader_;  // empty: nobody reads, or its read is done
  std::size_t delivered_ = 0;
  std::span<const std::byte> writer_;  // what is left to send
  bool write_accepted_ = false;
};

}  // namespace cube::vmm::virtio::vsock
