#include "vmm/process/channel.hpp"

#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/process/sockets.hpp"

namespace cube::vmm {
namespace {

struct Header {
  std::uint32_t type;
  std::uint32_t bytes;
};

Error broken(ssize_t count, int error) {
  if (count == 0) return make_error(ErrorCode::unavailable, "the machine's process is gone");
  if (error == EAGAIN)
    return make_error(ErrorCode::deadline_exceeded, "the machine's process does not answer");
  if (error == EPIPE || error == ECONNRESET)
    return make_error(ErrorCode::unavailable, "the machine's process is gone");
  return os_error(error, "cannot talk to the machine's process");
}

/// The rest of something of which `done` bytes are through already.
template <class Step>
Result<void> transfer(void* data, std::size_t length, std::size_t done, Step step) {
  while (done < length) {
    iovec rest{static_cast<std::byte*>(data) + done, length - done};
    const ssize_t count = step(std::span(&rest, 1));
    if (count <= 0) return broken(count, errno);
    done += static_cast<std::size_t>(count);
  }
  return {};
}

}  // namespace

Result<void> Channel::set_patience(std::chrono::seconds patience) {
  const timeval limit{patience.count(), 0};
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    if (::setsockopt(socket_.get(), SOL_SOCKET, option, &limit, sizeof limit) != 0)
      return os_error(errno, "cannot limit the time of a socket");
  return {};
}

// In one piece as a rule: who waits for it wakes up once.
Result<void> Channel::send(std::uint32_t type, std::string_view bytes, std::span<const int> descriptors) {
  Header header{type, static_cast<std::uint32_t>(bytes.size())};
  const iovec body{const_cast<char*>(bytes.data()), bytes.size()};
  std::array<iovec, 2> parts = {buffer_of(header), body};
  // A stream keeps descriptors with the bytes they were sent with: the first.
  const ssize_t sent = send_message(socket_.get(), parts, descriptors);
  if (sent <= 0) return broken(sent, errno);
  const auto done = static_cast<std::size_t>(sent);
  const std::size_t done_of_header = std::min(done, sizeof header);
  const auto send_more = [this](std::span<iovec> rest) { return send_message(socket_.get(), rest); };
  CUBE_TRY(transfer(&header, sizeof header, done_of_header, send_more));
  return transfer(body.iov_base, body.iov_len, done - done_of_header, send_more);
}

Result<Message> Channel::receive(Descriptors descriptors, std::uint32_t most) {
  Message message;
  Header header{};
  const auto receive_more = [&](std::span<iovec> rest) {
    return receive_message(socket_.get(), rest,
                           descriptors == Descriptors::taken ? &message.descriptors : nullptr);
  };
  CUBE_TRY(transfer(&header, sizeof header, 0, receive_more));
  if (header.bytes > most)
    return make_error(ErrorCode::corrupt, "a message between daemon and machine is too long");
  message.type = header.type;
  message.bytes.resize(header.bytes);
  CUBE_TRY(transfer(message.bytes.data(), message.bytes.size(), 0, receive_more));
  return message;
}

}  // namespace cube::vmm
