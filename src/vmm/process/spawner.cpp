#include "vmm/process/spawner.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <map>

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
constexpr std::size_t spares = 4;
constexpr int a_moment_ms = 10;

/// The next that comes.
Order receive_order(const Fd& orders) {
  Order order{};
  iovec bytes = buffer_of(order.shape);
  std::vector<Fd> descriptors;
  const ssize_t count = receive_message(orders.get(), std::span(&bytes, 1), &descriptors);
  if (count != sizeof order.shape || descriptors.size() != 1) ::_exit(0);  // the daemon is gone
  order.channel = std::move(descriptors.front());
  return order;
}

/// Forks processes and knows which of them still wait for a machine.
class Nursery {
 public:
  Nursery(Fd orders, Fd kvm, std::shared_ptr<const HostProfile> host)
      : orders_(std::move(orders)), kvm_(std::move(kvm)), host_(std::move(host)) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) ::_exit(1);
    taken_ = Fd(ends[0]);
    take_ = Fd(ends[1]);
  }

  [[noreturn]] void run() {
    for (bool make_up = true;;) {
      while (make_up && waiting_.size() < spares)
        if (!fork_one()) break;
      make_up = wait() || waiting_.empty();
    }
  }

 private:
  bool fork_one() {
    const pid_t child = ::fork();
    if (child == 0) become_spare();
    if (child < 0) return false;
    waiting_[child] = Fd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    return true;
  }

  [[noreturn]] void become_spare() {
    waiting_.clear();
    taken_.reset();
    host_machine(
        [this] {
          Order order = receive_order(orders_);
          const pid_t self = ::getpid();
          if (::write(take_.get(), &self, sizeof self) != sizeof self) ::_exit(1);
          orders_.reset();
          take_.reset();
          return order;
        },
        std::move(kvm_), host_);
  }

  /// Whether nothing happened for a moment while spare processes are missing.
  bool wait() {
    std::vector<pollfd> events{{orders_.get(), 0, 0}, {taken_.get(), POLLIN, 0}};
    // Where no process can be forked, orders are refused: the socket that comes with one is closed.
    if (waiting_.empty()) events[0].events = POLLIN;
    for (const auto& [process, handle] : waiting_) events.push_back({handle.get(), POLLIN, 0});
    const int count = ::poll(events.data(), events.size(), waiting_.size() < spares ? a_moment_ms : -1);
    if ((events[0].revents & POLLIN) != 0) receive_order(orders_);
    if ((events[0].revents & (POLLHUP | POLLERR)) != 0) ::_exit(0);  // the daemon is gone
    pid_t process = 0;
    if ((events[1].revents & POLLIN) != 0 && ::read(taken_.get(), &process, sizeof process) == sizeof process)
      waiting_.erase(process);
    // One that has ended, for want of memory perhaps, waits no more.
    std::erase_if(waiting_, [&](const auto& spare) {
      return std::ranges::any_of(
          events, [&](const pollfd& event) { return event.fd == spare.second.get() && event.revents != 0; });
    });
    return count == 0;
  }

  Fd orders_, kvm_;
  const std::shared_ptr<const HostProfile> host_;
  Fd taken_, take_;              ///< a pipe of the ids of processes that have got a machine
  std::map<pid_t, Fd> waiting_;  ///< with a pidfd of each
};

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
    Nursery(std::move((*ends)[1]), Fd(kvm_fd), host).run();
  }
  return Spawner(std::move((*ends)[0]));
}

Result<Fd> Spawner::spawn(const ShellShape& shape) {
  auto ends = socket_pair(SOCK_STREAM);
  if (!ends) return std::move(ends).error();
  iovec bytes = buffer_of(shape);
  const int theirs = (*ends)[1].get();
  if (send_message(socket_.get(), std::span(&bytes, 1), std::span(&theirs, 1)) < 0)
    return os_error(errno, "cannot start a process for a machine (restart the daemon)");
  return std::move((*ends)[0]);
}

}  // namespace cube::vmm
