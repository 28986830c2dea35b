#include "vmm/process/spawner.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "vmm/process/host.hpp"
#include "vmm/process/sockets.hpp"

namespace cube::vmm {
namespace {

void close_all_but(std::array<int, 2> kept) {
  std::ranges::sort(kept);
  unsigned first = STDERR_FILENO + 1;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > first) ::close_range(first, number - 1, 0);
    first = number + 1;
  }
  ::close_range(first, ~0u, 0);
}

/// Whoever stops the daemon does not stop its machines under it: they end when it has gone.
void ignore_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) std::signal(signal, SIG_IGN);
  std::signal(SIGCHLD, SIG_IGN);  // nobody asks how they ended
}

[[noreturn]] void fork_on_demand(Fd socket, Fd kvm, const std::shared_ptr<const HostProfile>& host) {
  for (;;) {
    char order = 0;
    iovec bytes = buffer_of(order);
    std::vector<Fd> descriptors;
    const ssize_t count = receive_message(socket.get(), std::span(&bytes, 1), &descriptors);
    if (count <= 0 || descriptors.size() != 1) ::_exit(0);  // the daemon is gone
    if (::fork() == 0) {
      socket.reset();
      host_machine(std::move(descriptors.front()), std::move(kvm), host);
    }
  }
}

}  // namespace

Result<Spawner> Spawner::start(int kvm_fd, const std::shared_ptr<const HostProfile>& host) {
  auto ends = socket_pair(SOCK_SEQPACKET);
  if (!ends) return std::move(ends).error();
  const pid_t child = ::fork();
  if (child < 0) return os_error(errno, "cannot start the process that machines are forked from");
  if (child == 0) {
    ::prctl(PR_SET_NAME, "cube-spawner");
    ignore_signals();
    close_all_but({(*ends)[1].get(), kvm_fd});
    (*ends)[0].release();
    // As nobody each would count against a limit of processes that root does not have.
    const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
    ::setrlimit(RLIMIT_NPROC, &unlimited);
    // Before the guests' vCPUs, which may keep every processor busy. Needs CAP_SYS_NICE.
    ::setpriority(PRIO_PROCESS, 0, -5);
    fork_on_demand(std::move((*ends)[1]), Fd(kvm_fd), host);
  }
  return Spawner(std::move((*ends)[0]));
}

Result<Fd> Spawner::spawn() {
  auto ends = socket_pair(SOCK_STREAM);
  if (!ends) return std::move(ends).error();
  char order = 1;
  iovec bytes = buffer_of(order);
  const int theirs = (*ends)[1].get();
  if (send_message(socket_.get(), std::span(&bytes, 1), std::span(&theirs, 1)) < 0)
    return os_error(errno, "cannot start a process for a machine (restart the daemon)");
  return std::move((*ends)[0]);
}

}  // namespace cube::vmm
