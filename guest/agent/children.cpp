#include "children.hpp"

#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <csignal>
#include <map>

#include "exec.hpp"

namespace cube::agent {

Child::Child(asio::any_io_executor loop, pid_t pid)
    : pid_(pid), exit_(std::move(loop), asio::steady_timer::time_point::max()) {}

asio::awaitable<int> Child::wait() {
  while (!status_) {
    asio::error_code cancelled;
    co_await exit_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }
  co_return *status_;
}

void Child::signal(int number) const {
  if (!status_) ::kill(-pid_, number);
}

void Child::exited(int status) {
  status_ = status;
  exit_.cancel();
}

struct Children::Reaper {
  Reaper(asio::any_io_executor loop, int signals, Scope reaped)
      : scope(reaped), signal_fd(std::move(loop), signals) {}

  Scope scope;
  asio::posix::stream_descriptor signal_fd;
  std::map<pid_t, std::shared_ptr<Child>> owned;

  void reap_every_child() {
    for (;;) {
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, WNOHANG);
      if (pid <= 0) return;
      if (auto node = owned.extract(pid)) node.mapped()->exited(status);
    }
  }

  void reap_own_children() {
    for (auto next = owned.begin(); next != owned.end();) {
      const auto current = next++;
      int status = 0;
      if (::waitpid(current->first, &status, WNOHANG) <= 0) continue;
      current->second->exited(status);
      owned.erase(current);
    }
  }

  static asio::awaitable<void> run(std::shared_ptr<Reaper> self) {
    signalfd_siginfo information[16];
    for (;;) {
      asio::error_code error;
      co_await self->signal_fd.async_read_some(asio::buffer(information),
                                               asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      // Signals merge: one may stand for many children.
      if (self->scope == Scope::every_child)
        self->reap_every_child();
      else
        self->reap_own_children();
    }
  }
};

Children::Children(asio::any_io_executor loop, std::shared_ptr<Reaper> reaper, Fd cgroup)
    : loop_(std::move(loop)), reaper_(std::move(reaper)), cgroup_(std::move(cgroup)) {}

Children::~Children() {
  asio::error_code ignored;
  reaper_->signal_fd.close(ignored);
}

Result<std::unique_ptr<Children>> Children::create(asio::any_io_executor loop, Scope scope,
                                                   const std::string& cgroup) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  if (const int failed = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr))
    return os_error(failed, "cannot block SIGCHLD");
  const int descriptor = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (descriptor < 0) return os_error(errno, "cannot create a signalfd");
  auto reaper = std::make_shared<Reaper>(loop, descriptor, scope);

  Fd group;
  if (!cgroup.empty()) {
    auto directory = open_file(cgroup, O_DIRECTORY | O_PATH);
    if (!directory) return std::move(directory).error();
    group = std::move(*directory);
  }
  asio::co_spawn(loop, Reaper::run(reaper), asio::detached);
  return std::unique_ptr<Children>(new Children(std::move(loop), std::move(reaper), std::move(group)));
}

Result<std::shared_ptr<Child>> Children::fork_task(int (*task)()) {
  const pid_t pid = ::fork();
  if (pid < 0) return os_error(errno, "cannot fork");
  if (pid == 0) {
    ::close_range(STDERR_FILENO + 1, ~0U, 0);  // or connections would stay open as long as the task runs
    ::_exit(task());
  }
  auto child = std::make_shared<Child>(loop_, pid);
  reaper_->owned[pid] = child;
  return child;
}

Result<std::shared_ptr<Child>> Children::spawn(const Program& program, const Stdio& stdio) {
  auto started = start_program(program, stdio, cgroup_.get());
  if (!started) return std::move(started).error();
  auto child = std::make_shared<Child>(loop_, started->pid);
  reaper_->owned[started->pid] = child;

  if (started->failure) return explain(*started->failure, program);
  return child;
}

std::string describe_status(int status) {
  if (WIFEXITED(status)) return "exit status " + std::to_string(WEXITSTATUS(status));
  const int number = WTERMSIG(status);
  std::string text = "signal: ";
  switch (number) {
    case SIGHUP: text += "hangup"; break;
    case SIGINT: text += "interrupt"; break;
    case SIGQUIT: text += "quit"; break;
    case SIGILL: text += "illegal instruction"; break;
    case SIGTRAP: text += "trace/breakpoint trap"; break;
    case SIGABRT: text += "aborted"; break;
    case SIGBUS: text += "bus error"; break;
    case SIGFPE: text += "floating point exception"; break;
    case SIGKILL: text += "killed"; break;
    case SIGUSR1: text += "user defined signal 1"; break;
    case SIGSEGV: text += "segmentation fault"; break;
    case SIGUSR2: text += "user defined signal 2"; break;
    case SIGPIPE: text += "broken pipe"; break;
    case SIGALRM: text += "alarm clock"; break;
    case SIGTERM: text += "terminated"; break;
    default: text += "signal " + std::to_string(number);
  }
  if (WCOREDUMP(status)) text += " (core dumped)";
  return text;
}

int exit_code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

}  // namespace cube::agent
