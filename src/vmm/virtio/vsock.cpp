// virtio-vsock, virtio 1.2 section 5.10: packets between the guest's rings and the host's connections.
//
// Everything here holds the transport's mutex. Streams change a connection and then call
// `connection_changed`, which puts what is due into the guest's receive ring at once, without a detour over
// the loop. Connections that want to send stand in one line; each gets one packet, then stands behind the
// others.
#include <sys/random.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <atomic>
#include <chrono>
#include <deque>
#include <unordered_map>

#include "vmm/virtio/transport.hpp"
#include "vmm/virtio/vsock_stream.hpp"

namespace cube::vmm::virtio {
namespace vsock {
namespace {

constexpr std::uint32_t device_id = 19;

enum QueueIndex : std::size_t { rx_queue, tx_queue, event_queue, queue_count };

constexpr std::uint32_t transport_reset_event = 0;  // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET

constexpr std::size_t most_connections = 4096;
constexpr std::size_t most_stray_resets = 256;  // answers to packets that belong to nothing

// Ports of the host's ends: high, and far from VMADDR_PORT_ANY.
constexpr std::uint32_t first_host_port = 1u << 30;
constexpr std::uint32_t last_host_port = (1u << 31) - 1;

constexpr auto linger_time = std::chrono::seconds(2);

/// Not by std::random_device, which takes 12 us where the processor's own instruction traps, 0.3 us this way.
std::uint32_t random_host_port() {
  std::uint32_t number = 0;
  [[maybe_unused]] const ssize_t got = ::getrandom(&number, sizeof number, 0);  // without it any will do
  return first_host_port + number % (last_host_port - first_host_port);
}

std::uint64_t key_of(std::uint32_t host_port, std::uint32_t guest_port) {
  return std::uint64_t{host_port} << 32 | guest_port;
}

class VsockDeviceImpl final : public Transport, public VsockDevice, public ConnectionHost {
 public:
  VsockDeviceImpl(Attachment attachment, const asio::any_io_executor& loop, std::uint64_t guest_cid)
      : Transport(std::move(attachment), loop, device_id, 0, queue_count),
        guest_cid_(guest_cid),
        next_host_port_(random_host_port()),
        linger_timer_(loop) {}

  ~VsockDeviceImpl() override { end_connections(device_gone(), true); }

  asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t port,
                                                           std::chrono::milliseconds timeout) override {
    return open(self(), port, timeout);
  }

  std::chrono::steady_clock::time_point last_data() const override { return last_data_; }

  std::mutex& connection_mutex() override { return mutex(); }

  void connection_changed(const std::shared_ptr<Endpoint>& endpoint) override {
    update(endpoint);
    if (endpoint->connection.state() == Connection::State::closing) linger(endpoint);
    flush();
  }

 private:
  /// A restored guest still believes in the connections it had. New ones wait until it has processed the
  /// event that ends those, for it would end them too.
  enum class TransportReset { none, due, announced };

  std::shared_ptr<VsockDeviceImpl> self() {
    return std::static_pointer_cast<VsockDeviceImpl>(shared_from_this());
  }

  // --- Connecting ---

  /// Does not keep the device alive while it waits.
  static asio::awaitable<Result<std::unique_ptr<Stream>>> open(std::shared_ptr<VsockDeviceImpl> device,
                                                               std::uint32_t port,
                                                               std::chrono::milliseconds timeout) {
    auto endpoint = device->start_connection(port);
    device.reset();
    if (!endpoint) co_return std::move(endpoint).error();
    auto stream = std::make_unique<VsockStream>(std::move(*endpoint));
    auto connected = co_await stream->wait_connected(timeout);
    if (!connected) co_return std::move(connected).error();
    co_return std::unique_ptr<Stream>(std::move(stream));
  }

  Result<std::shared_ptr<Endpoint>> start_connection(std::uint32_t guest_port) {
    const std::lock_guard lock(mutex());
    if (end_) return *end_;
    if (connections_.size() >= most_connections)
      return make_error(ErrorCode::resource_exhausted, "too many connections into this guest");
    const std::uint32_t host_port = next_host_port(guest_port);
    auto endpoint = std::make_shared<Endpoint>(executor(), self(), host_port, guest_port);
    connections_.emplace(key_of(host_port, guest_port), endpoint);
    update(endpoint);
    flush();
    return endpoint;
  }

  std::uint32_t next_host_port(std::uint32_t guest_port) {
    for (;;) {  // ends: there are more ports than connections
      const std::uint32_t port = next_host_port_;
      next_host_port_ = port == last_host_port ? first_host_port : port + 1;
      if (!connections_.contains(key_of(port, guest_port))) return port;
    }
  }

  // --- Connections ---

  /// After a connection changed in any way. On the loop.
  void update(const std::shared_ptr<Endpoint>& endpoint) {
    Connection& connection = endpoint->connection;
    endpoint->wake(connection.take_wakeups());
    if (connection.wants_to_send() && !std::exchange(endpoint->queued, true)) ready_.push_back(endpoint);
    if (connection.finished()) connections_.erase(key_of(connection.host_port(), connection.guest_port()));
  }

  /// All, or those the guest knows of. From any thread: the streams hear of it on the loop.
  void end_connections(const Error& reason, bool all) {
    std::vector<std::shared_ptr<Endpoint>> ended;
    std::erase_if(connections_, [&](const auto& entry) {
      const auto& endpoint = entry.second;
      if (!all && !endpoint->connection.known_to_guest()) return false;
      endpoint->connection.forget(reason);
      ended.push_back(endpoint);
      return true;
    });
    stray_resets_.clear();
    if (all) ready_.clear();
    if (ended.empty()) return;
    asio::post(executor(), [ended = std::move(ended)] {
      for (const auto& endpoint : ended) endpoint->wake({.reader = true, .writer = true});
    });
  }

  /// Gives the guest a limited time to answer the end of a connection.
  void linger(const std::shared_ptr<Endpoint>& endpoint) {
    if (std::exchange(endpoint->lingering, true)) return;
    lingering_.push_back({std::chrono::steady_clock::now() + linger_time, endpoint});
    if (lingering_.size() == 1) wait_for_first_lingering();
  }

  void wait_for_first_lingering() {
    linger_timer_.expires_at(lingering_.front().until);
    linger_timer_.async_wait([device = std::weak_ptr(self())](const asio::error_code& error) {
      if (const auto self = device.lock(); self && !error) self->expire_lingering();
    });
  }

  void expire_lingering() {
    const std::lock_guard lock(mutex());
    const auto now = std::chrono::steady_clock::now();
    while (!lingering_.empty() && lingering_.front().until <= now) {
      const auto endpoint = lingering_.front().endpoint.lock();
      lingering_.pop_front();
      if (!endpoint) continue;
      endpoint->connection.abort(make_error(ErrorCode::cancelled, "the guest did not confirm the end"));
      update(endpoint);
    }
    if (!lingering_.empty()) wait_for_first_lingering();
    flush();
  }

  // --- Guest to host ---

  void receive(const Chain& chain) {
    Header header;
    if (copy_from(chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))) < sizeof header) return;
    if (header.source_cid != guest_cid_ || header.destination_cid != host_cid) return;
    const auto found = connections_.find(key_of(header.destination_port, header.source_port));
    if (found == connections_.end() || header.type != stream_type) return answer_stray(header);

    const std::shared_ptr<Endpoint> endpoint = found->second;
    if (header.length > max_payload || header.length > chain.readable_bytes - sizeof header)
      endpoint->connection.abort(
          make_error(ErrorCode::unavailable, "a packet of the guest lies about its length"));
    else
      endpoint->connection.receive(header, chain.readable, sizeof header);
    update(endpoint);
  }

  /// What belongs to no connection, or wants to start one, is refused.
  void answer_stray(const Header& header) {
    if (header.op == Op::reset || stray_resets_.size() >= most_stray_resets) return;
    Header answer;
    answer.source_port = header.destination_port;
    answer.destination_port = header.source_port;
    answer.type = header.type;
    answer.op = Op::reset;
    stray_resets_.push_back(answer);
  }

  // --- Host to guest ---

  bool has_packets() {
    while (!ready_.empty() && !ready_.front()->connection.wants_to_send()) {
      ready_.front()->queued = false;
      ready_.pop_front();
    }
    return !ready_.empty() || !stray_resets_.empty();
  }

  /// Fills receive buffers, at most `budget`; true if it stopped for the budget.
  Result<bool> send_packets(std::size_t budget) {
    Queue& rx = queue(rx_queue);
    if (!running() || transport_reset_ != TransportReset::none || !rx.active()) return false;
    bool unfinished = false;
    while (has_packets()) {
      if ((unfinished = budget-- == 0)) break;
      rx.disable_kicks();
      const auto popped = rx.pop(rx_chain_);
      if (!popped) return popped.error();
      if (!*popped) {
        if (rx.enable_kicks()) continue;
        break;
      }
      if (rx_chain_.writable_bytes <= sizeof(Header))
        return make_error(ErrorCode::guest, "a vsock receive buffer without room for a packet");
      rx.push(rx_chain_.head, send_packet());
    }
    notify_driver(rx_queue);
    return unfinished;
  }

  /// Writes the next packet into rx_chain_; its length.
  std::uint32_t send_packet() {
    if (!stray_resets_.empty()) {
      const Header header = stray_resets_.front();
      stray_resets_.pop_front();
      return put_packet(header, {});
    }
    const std::shared_ptr<Endpoint> endpoint = std::move(ready_.front());
    ready_.pop_front();
    endpoint->queued = false;
    std::span<const std::byte> payload;
    const Header header =
        endpoint->connection.next_packet(rx_chain_.writable_bytes - sizeof(Header), payload);
    const std::uint32_t written = put_packet(header, payload);
    update(endpoint);
    return written;
  }

  std::uint32_t put_packet(Header header, std::span<const std::byte> payload) {
    header.source_cid = host_cid;
    header.destination_cid = guest_cid_;
    copy_to(rx_chain_.writable, 0, std::as_bytes(std::span(&header, 1)));
    copy_to(rx_chain_.writable, sizeof header, payload);
    if (!payload.empty()) last_data_ = std::chrono::steady_clock::now();
    return static_cast<std::uint32_t>(sizeof header + payload.size());
  }

  /// Sends what is due now; the rest follows from the loop.
  void flush() {
    const auto unfinished = send_packets(max_queue_size);
    if (!unfinished) {
      give_up();
      fail(unfinished.error());
    } else if (*unfinished) {
      schedule(rx_queue);
    }
    check_memory();
  }

  // --- Events ---

  /// All event buffers go back to the driver, the event in the first. So any buffer that becomes available
  /// later was given after the event was taken. (Linux ignores an event of another length than its own.)
  Result<void> announce_transport_reset() {
    Queue& events = queue(event_queue);
    Chain chain;
    std::vector<std::uint16_t> heads;
    while (heads.size() < max_queue_size) {
      const auto popped = events.pop(chain);
      if (!popped) return popped.error();
      if (!*popped) break;
      if (heads.empty() && copy_to(chain.writable, 0, std::as_bytes(std::span(&transport_reset_event, 1))) <
                               sizeof transport_reset_event)
        return make_error(ErrorCode::guest, "a vsock event buffer without room for an event");
      heads.push_back(chain.head);
    }
    if (heads.empty()) return {};
    for (std::size_t i = 0; i < heads.size(); ++i)
      events.push(heads[i], i == 0 ? sizeof transport_reset_event : 0);
    transport_reset_ = TransportReset::announced;
    notify_driver(event_queue);
    return {};
  }

  Result<bool> drain_events() {
    if (transport_reset_ == TransportReset::none) return false;
    if (transport_reset_ == TransportReset::due) CUBE_TRY(announce_transport_reset());
    Queue& events = queue(event_queue);
    Chain chain;
    const auto given = events.pop(chain);
    if (!given) return given.error();
    if (!*given) return events.enable_kicks();
    events.undo_pop();
    if (transport_reset_ == TransportReset::due) return true;  // the first buffer came just now
    transport_reset_ = TransportReset::none;
    schedule(rx_queue);
    return false;
  }

  // --- Transport ---

  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    copy_config(std::as_bytes(std::span(&guest_cid_, 1)), offset, data);
  }

  void was_reset() override {
    transport_reset_ = TransportReset::none;
    // Who still waits to be heard goes on waiting: every driver begins with a reset.
    end_connections(make_error(ErrorCode::unavailable, "the guest reset its vsock device"), false);
  }

  Result<bool> drain(std::size_t index, std::size_t budget) override {
    auto unfinished = drain_queue(index, budget);
    if (!unfinished) give_up();
    return unfinished;
  }

  Result<bool> drain_queue(std::size_t index, std::size_t budget) {
    if (index == event_queue) return drain_events();
    if (index == rx_queue) return send_packets(budget);
    auto unfinished = serve_requests(tx_queue, budget, [this](const Chain& chain) -> Result<std::uint32_t> {
      receive(chain);
      return 0u;
    });
    if (!unfinished) return unfinished;
    const auto more_to_send = send_packets(budget);
    if (!more_to_send) return more_to_send.error();
    if (*more_to_send) schedule(rx_queue);
    return unfinished;
  }

  /// The guest broke the rings: its machine ends.
  void give_up() {
    end_ = make_error(ErrorCode::unavailable, "the guest broke its vsock device");
    end_connections(*end_, true);
  }

  void device_shut_down() override {
    end_ = make_error(ErrorCode::unavailable, "the machine has stopped");
    end_connections(device_gone(), true);
  }

  std::string save_device() const override {
    const bool guest_has_connections = transport_reset_ != TransportReset::none || !stray_resets_.empty() ||
                                       std::ranges::any_of(connections_, [](const auto& entry) {
                                         return entry.second->connection.known_to_guest();
                                       });
    return StateWriter().put(guest_cid_).put(next_host_port_).put(std::uint8_t{guest_has_connections}).take();
  }

  Result<void> restore_device(std::string_view state) override {
    StateReader reader(state);
    std::uint64_t guest_cid = 0;
    std::uint32_t host_port = 0;
    std::uint8_t guest_has_connections = 0;
    CUBE_TRY(reader.get(guest_cid));
    CUBE_TRY(reader.get(host_port));
    CUBE_TRY(reader.get(guest_has_connections));
    if (!reader.at_end() || guest_cid != guest_cid_ || host_port < first_host_port ||
        host_port > last_host_port || guest_has_connections > 1)
      return make_error(ErrorCode::corrupt, "impossible vsock state");
    next_host_port_ = host_port;
    if (guest_has_connections != 0) transport_reset_ = TransportReset::due;
    return {};
  }

  struct Lingering {
    std::chrono::steady_clock::time_point until;
    std::weak_ptr<Endpoint> endpoint;
  };

  const std::uint64_t guest_cid_;
  std::uint32_t next_host_port_;
  TransportReset transport_reset_ = TransportReset::none;
  std::optional<Error> end_;  // why there will be no connection any more

  std::unordered_map<std::uint64_t, std::shared_ptr<Endpoint>>
      connections_;                              // until both sides know their end
  std::deque<std::shared_ptr<Endpoint>> ready_;  // want to send
  std::deque<Header> stray_resets_;
  Chain rx_chain_;  // its vectors are reused

  std::atomic<std::chrono::steady_clock::time_point> last_data_{};  // any thread

  // Loop only.
  std::deque<Lingering> lingering_;  // in the order of their time
  asio::steady_timer linger_timer_;
};

}  // namespace
}  // namespace vsock

std::shared_ptr<VsockDevice> make_vsock_device(Attachment attachment, asio::any_io_executor loop,
                                               std::uint64_t guest_cid) {
  return std::make_shared<vsock::VsockDeviceImpl>(std::move(attachment), loop, guest_cid);
}

}  // namespace cube::vmm::virtio
