#include "vmm/process/sockets.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace cube::vmm {
namespace {

// The kernel's own limit, SCM_MAX_FD in include/net/scm.h.
constexpr std::size_t most_descriptors = 253;

using ControlBuffer = std::array<std::byte, CMSG_SPACE(most_descriptors * sizeof(int))>;

void take_descriptors(msghdr& message, std::vector<Fd>& into) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof descriptor, sizeof descriptor);
      into.emplace_back(descriptor);
    }
  }
}

}  // namespace

Result<std::array<Fd, 2>> socket_pair(int type) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0)
    return os_error(errno, "cannot make a pair of sockets");
  return std::array<Fd, 2>{Fd(ends[0]), Fd(ends[1])};
}

ssize_t send_message(int socket, std::span<iovec> bytes, std::span<const int> descriptors, int flags) {
  msghdr message{};
  message.msg_iov = bytes.data();
  message.msg_iovlen = bytes.size();
  alignas(cmsghdr) ControlBuffer control{};
  if (!descriptors.empty()) {
    if (descriptors.size() > most_descriptors) {
      errno = ETOOMANYREFS;
      return -1;
    }
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  return retry_interrupted([&] { return ::sendmsg(socket, &message, flags | MSG_NOSIGNAL); });
}

ssize_t receive_message(int socket, std::span<iovec> bytes, std::vector<Fd>* descriptors, int flags) {
  msghdr message{};
  message.msg_iov = bytes.data();
  message.msg_iovlen = bytes.size();
  alignas(cmsghdr) ControlBuffer control;
  if (descriptors != nullptr) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
  const ssize_t count =
      retry_interrupted([&] { return ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC); });
  if (count >= 0 && descriptors != nullptr) take_descriptors(message, *descriptors);
  return count;
}

void wait_writable(int socket) {
  pollfd waiting{socket, POLLOUT, 0};
  retry_interrupted([&] { return ::poll(&waiting, 1, -1); });
}

}  // namespace cube::vmm
