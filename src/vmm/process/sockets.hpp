// Unix sockets between the daemon and the processes of its machines: messages with descriptors.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cube/core.hpp>
#include <span>
#include <vector>

namespace cube::vmm {

/// A pair of sockets of a type of socketpair(2), close-on-exec.
Result<std::array<Fd, 2>> socket_pair(int type);

/// sendmsg(2) of it all with descriptors, of which the receiver gets copies; -1 with errno. EINTR and
/// SIGPIPE are no concern.
ssize_t send_message(int socket, std::span<iovec> bytes, std::span<const int> descriptors = {},
                     int flags = 0);

/// recvmsg(2); descriptors that came along are appended to `descriptors`. Without it none are taken: the
/// kernel closes them.
ssize_t receive_message(int socket, std::span<iovec> bytes, std::vector<Fd>* descriptors = nullptr,
                        int flags = 0);

/// Waits until the socket takes more; for those that others made non-blocking.
void wait_writable(int socket);

template <class T>
iovec buffer_of(T& object) {
  return {const_cast<std::remove_const_t<T>*>(&object), sizeof object};
}

}  // namespace cube::vmm
