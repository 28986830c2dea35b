// A connection's states and credit; packets in, packets out.
#include "vmm/virtio/vsock_connection.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace cube::vmm::virtio::vsock {

void Connection::receive(const Header& header, const std::vector<iovec>& buffers, std::size_t offset) {
  if (state_ == State::closed) {
    if (header.op == Op::reset) reset_pending_ = false;
    return;
  }
  if (header.op == Op::reset)
    return forget(make_error(ErrorCode::unavailable, state_ == State::connecting
                                                         ? "connection refused by the guest"
                                                         : "connection reset by the guest"));
  update_credit(header);
  if (state_ == State::connecting) {
    if (header.op != Op::response || request_pending_) return violate("an answer that is none");
    state_ = State::established;
    wakeups_.reader = true;
    return;
  }
  switch (header.op) {
    case Op::data: return receive_data(header.length, buffers, offset);
    case Op::shutdown: return receive_shutdown(header.flags);
    case Op::credit_update: return;
    case Op::credit_request: credit_update_pending_ = true; return;
    default: return violate("an operation out of place");
  }
}

void Connection::receive_data(std::uint32_t length, const std::vector<iovec>& buffers, std::size_t offset) {
  if (state_ == State::closing) return;  // sent before it heard of the end
  if ((guest_shutdown_ & shutdown_send) != 0) return violate("data after its end of stream");
  if (length > buffer_size - received_.size()) return violate("more data than it has credit for");
  if (!reader_.empty() && length > 0) {  // nothing is kept while a reader waits
    delivered_ = copy_from(buffers, offset, reader_.first(std::min<std::size_t>(length, reader_.size())));
    reader_ = {};
    wakeups_.reader = true;
    consumed(delivered_);
    offset += delivered_;
    length -= static_cast<std::uint32_t>(delivered_);
  }
  if (length > 0) received_.append(buffers, offset, length);
}

void Connection::receive_shutdown(std::uint32_t flags) {
  guest_shutdown_ |= flags & shutdown_both;
  if ((guest_shutdown_ & shutdown_receive) != 0 && !writer_.empty()) drop_writer();
  if (guest_shutdown_ == shutdown_both) {  // it is done with the connection and waits for our RST
    reset_pending_ = true;
    end(make_error(ErrorCode::unavailable, "the guest closed the connection"));
  }
  wakeups_ = {.reader = true, .writer = true};
}

/// Takes over what a packet says of the guest's buffer. A count outside of what is on the way is old news
/// (the guest's CPUs may send in another order than they count) or a lie: the last good one stays.
void Connection::update_credit(const Header& header) {
  guest_buffer_size_ = header.buffer_size;
  if (header.forwarded_count - guest_forwarded_ <= sent_ - guest_forwarded_)
    guest_forwarded_ = header.forwarded_count;
  if (credit() > 0) credit_request_pending_ = false;
}

/// How much the guest has room for.
std::uint32_t Connection::credit() const {
  const std::uint32_t on_the_way = sent_ - guest_forwarded_;
  return guest_buffer_size_ > on_the_way ? guest_buffer_size_ - on_the_way : 0;
}

/// The reader took bytes: the guest may send as many again. It is told at every quarter of the buffer.
void Connection::consumed(std::size_t bytes) {
  forwarded_ += static_cast<std::uint32_t>(bytes);
  if (forwarded_ - advertised_forwarded_ >= buffer_size / 4) credit_update_pending_ = true;
}

bool Connection::wants_to_send() const {
  switch (state_) {
    case State::connecting: return request_pending_;
    case State::established:
      return credit_update_pending_ || credit_request_pending_ || (!writer_.empty() && credit() > 0) ||
             (shutdown_pending_ && writer_.empty());
    case State::closing: return shutdown_pending_;
    case State::closed: return reset_pending_;
  }
  return false;
}

Header Connection::next_packet(std::size_t room, std::span<const std::byte>& payload) {
  payload = {};
  if (state_ == State::closed) {
    reset_pending_ = false;
    return make_header(Op::reset);
  }
  if (state_ == State::connecting) {
    request_pending_ = false;
    return make_header(Op::request);
  }
  if (state_ == State::established && !writer_.empty() && credit() > 0) {
    payload = writer_.first(std::min<std::size_t>({writer_.size(), credit(), room, max_payload}));
    writer_ = writer_.subspan(payload.size());
    sent_ += static_cast<std::uint32_t>(payload.size());
    if (writer_.empty())
      wakeups_.writer = true;
    else if (credit() == 0)
      credit_request_pending_ = true;
    Header header = make_header(Op::data);
    header.length = static_cast<std::uint32_t>(payload.size());
    return header;
  }
  if (shutdown_pending_ && writer_.empty()) {
    shutdown_pending_ = false;
    Header header = make_header(Op::shutdown);
    header.flags = state_ == State::closing ? shutdown_both : shutdown_send;
    return header;
  }
  if (credit_request_pending_) {
    credit_request_pending_ = false;
    return make_header(Op::credit_request);
  }
  return make_header(Op::credit_update);
}

/// Every packet carries our side of the credit.
Header Connection::make_header(Op op) {
  Header header;
  header.source_port = host_port_;
  header.destination_port = guest_port_;
  header.op = op;
  header.buffer_size = buffer_size;
  header.forwarded_count = forwarded_;
  advertised_forwarded_ = forwarded_;
  credit_update_pending_ = false;
  return header;
}

void Connection::begin_read(std::span<std::byte> buffer) {
  delivered_ = received_.take(buffer);
  if (delivered_ > 0)
    consumed(delivered_);
  else
    reader_ = buffer;
}

std::optional<Result<std::size_t>> Connection::read_result() const {
  if (host_done_) return *failure_;
  if (delivered_ > 0) return delivered_;
  if ((guest_shutdown_ & shutdown_send) != 0) return std::size_t{0};
  if (failure_) return *failure_;
  return std::nullopt;
}

void Connection::end_read() {
  reader_ = {};
  delivered_ = 0;
}

void Connection::begin_write(std::span<const std::byte> bytes) {
  write_accepted_ = state_ == State::established && !write_shut_ && (guest_shutdown_ & shutdown_receive) == 0;
  if (!write_accepted_) return;
  writer_ = bytes;
  if (!writer_.empty() && credit() == 0) credit_request_pending_ = true;
}

std::optional<Result<void>> Connection::write_result() const {
  if (host_done_) return *failure_;
  if (write_accepted_ && writer_.empty()) return Result<void>();  // whatever came afterwards
  if (failure_) return *failure_;
  if ((guest_shutdown_ & shutdown_receive) != 0)
    return make_error(ErrorCode::unavailable, "the guest receives no more");
  if (!write_accepted_) return make_error(ErrorCode::unavailable, "the stream is shut down for writing");
  return std::nullopt;
}

void Connection::end_write() { drop_writer(); }

void Connection::shutdown_write() {
  if (state_ != State::established || write_shut_) return;
  write_shut_ = shutdown_pending_ = true;
}

void Connection::close() {
  if (std::exchange(host_done_, true)) return;
  const bool unsent = !writer_.empty();
  drop_writer();
  reader_ = {};
  received_.clear();
  failure_ = make_error(ErrorCode::cancelled, "the stream was closed");
  wakeups_ = {.reader = true, .writer = true};
  if (state_ == State::established && !unsent) {
    state_ = State::closing;
    shutdown_pending_ = true;
  } else {
    abort(*failure_);
  }
}

void Connection::abort(Error reason) {
  if (state_ == State::closed) return;
  reset_pending_ = !request_pending_;
  end(std::move(reason));
}

void Connection::forget(Error reason) {
  reset_pending_ = false;
  if (state_ != State::closed) end(std::move(reason));
}

void Connection::violate(const char* what) {
  abort(make_error(ErrorCode::unavailable, std::string("the guest broke the vsock protocol: ") + what));
}

void Connection::end(Error reason) {
  state_ = State::closed;
  if (!failure_) failure_ = std::move(reason);
  reader_ = {};
  wakeups_ = {.reader = true, .writer = true};
}

void Connection::drop_writer() {
  writer_ = {};
  write_accepted_ = false;
}

Connection::Wakeups Connection::take_wakeups() { return std::exchange(wakeups_, {}); }

}  // namespace cube::vmm::virtio::vsock
