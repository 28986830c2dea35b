#include "vmm/process/spawner.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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

/// Processes made ahead, so that a machine waits neither for a fork nor for what a process does first. They
/// are made up for when none is left, else once no machine has been wanted for a moment: a machine that is
/// being made has the processors.
constexpr std::uint64_t spares = 4;
constexpr int a_moment_ms = 10;

/// The channel of the next machine that is wanted.
Fd receive_order(const Fd& orders) {
  char order = 0;
  iovec bytes = buffer_of(order);
  std::vector<Fd> descriptors;
  const ssize_t count = receive_message(orders.get(), std::span(&bytes, 1), &descriptors);
  if (count <= 0 || descriptors.size() != 1) ::_exit(0);  // the daemon is gone
  return std::move(descriptors.front());
}

[[noreturn]] void keep_spares(Fd orders, Fd kvm, const std::shared_ptr<const HostProfile>& host) {
  Fd taken(::eventfd(0, EFD_CLOEXEC));
  if (!taken) ::_exit(1);
  std::uint64_t missing = spares;
  bool make_up = true;
  for (;;) {
    pid_t child = 0;
    while (make_up && missing > 0 && (child = ::fork()) > 0) --missing;
    if (make_up && missing > 0 && child == 0)
      host_machine(
          [&] {
            Fd channel = receive_order(orders);
            const std::uint64_t one = 1;
            if (::write(taken.get(), &one, sizeof one) != sizeof one) ::_exit(1);
            orders.reset();
            taken.reset();
            return channel;
          },
          std::move(kvm), host);

    // Where no process can be forked, orders are refused: the socket that comes with one is closed.
    const bool nobody_takes_orders = missing == spares;
    std::array<pollfd, 2> events{};
    events[0] = {taken.get(), POLLIN, 0};
    events[1] = {orders.get(), static_cast<short>(nobody_takes_orders ? POLLIN : 0), 0};
    const int count = ::poll(events.data(), events.size(), missing > 0 ? a_moment_ms : -1);
    if ((events[1].revents & POLLIN) != 0) receive_order(orders);
    if ((events[1].revents & (POLLHUP | POLLERR)) != 0) ::_exit(0);  // the daemon is gone
    std::uint64_t gone = 0;
    if ((events[0].revents & POLLIN) != 0 && ::read(taken.get(), &gone, sizeof gone) == sizeof gone)
      missing += gone;
    make_up = count == 0 || missing == spares;
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
    keep_spares(std::move((*ends)[1]), Fd(kvm_fd), host);
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
