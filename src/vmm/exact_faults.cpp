#include "vmm/exact_faults.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// Newer than the headers of Debian 12; include/uapi/linux/userfaultfd.h of Linux 6.7.
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

namespace cube::vmm {

// Linux maps no neighbours where userfaultfd may want to know of writes (uffd_disable_fault_around in
// include/linux/userfaultfd_k.h), because it could not tell which of them were protected. Here nothing ever
// is: no fault is reported, and nobody has to read the descriptor. The asynchronous mode is the one that
// takes any kind of mapping.
Fd make_faults_exact(std::span<std::byte> memory) {
  Fd descriptor(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_WP_ASYNC;
  if (!descriptor || ::ioctl(descriptor.get(), UFFDIO_API, &api) != 0) return {};
  uffdio_register range{};
  range.range.start = reinterpret_cast<std::uintptr_t>(memory.data());
  range.range.len = memory.size();
  range.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(descriptor.get(), UFFDIO_REGISTER, &range) != 0) return {};
  return descriptor;
}

}  // namespace cube::vmm
