#include "exec.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace cube::agent {
namespace {

using Step = ExecFailure::Step;

constexpr int report_descriptor = 3;

/// Everything the child needs, laid out before the fork: after it, it must not allocate.
struct Image {
  std::vector<std::string> candidates;  ///< paths to try, in the order of PATH
  std::vector<char*> arguments;
  std::vector<char*> environment;
};

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> candidates_for(const Program& program) {
  const std::string& name = program.arguments.front();
  if (name.find('/') != std::string::npos) return {name};
  std::string_view path = "/usr/local/bin:/usr/bin:/bin";
  for (std::string_view variable : program.environment)
    if (variable.starts_with("PATH=")) path = variable.substr(5);
  std::vector<std::string> candidates;
  for (;;) {
    const auto colon = path.find(':');
    const std::string_view directory = path.substr(0, colon);
    std::string candidate(directory.empty() ? std::string_view(".") : directory);
    candidates.push_back(std::move(candidate.append("/").append(name)));
    if (colon == std::string_view::npos) return candidates;
    path.remove_prefix(colon + 1);
  }
}

[[noreturn]] void give_up(Step step, int os_errno) {
  const ExecFailure failure{step, os_errno};
  [[maybe_unused]] const ssize_t ignored = ::write(report_descriptor, &failure, sizeof failure);
  ::_exit(127);
}

void arrange_descriptors(const Stdio& stdio, int report) {
  bool arranged = ::dup2(stdio.input, 0) >= 0 && ::dup2(stdio.output, 1) >= 0 && ::dup2(stdio.error, 2) >= 0;
  const int saved = errno;
  // From here on a failure can be reported.
  if (report != report_descriptor) ::dup3(report, report_descriptor, O_CLOEXEC);
  ::close_range(report_descriptor + 1, ~0U, 0);
  if (!arranged) give_up(Step::stdio, saved);
}

void write_text(const char* path, const char* text) {
  const int file = ::open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t ignored = ::write(file, text, std::strlen(text));
  ::close(file);
}

/// The raw system calls, which change this process only: the C library's also visit threads that were not
/// copied.
void take_credentials(const User& user) {
  if (::geteuid() != 0 && ::geteuid() == user.uid) return;
  if (::syscall(SYS_setgroups, user.groups.size(), user.groups.data()) != 0 ||
      ::syscall(SYS_setresgid, user.gid, user.gid, user.gid) != 0 ||
      ::syscall(SYS_setresuid, user.uid, user.uid, user.uid) != 0)
    give_up(Step::credentials, errno);
}

void reset_signals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < 32; ++number) ::sigaction(number, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void execute(const Image& image) {
  int failed = ENOENT;
  for (const std::string& candidate : image.candidates) {
    ::execve(candidate.c_str(), image.arguments.data(), image.environment.data());
    if (errno == ENOENT || errno == ENOTDIR) continue;
    failed = errno;
    if (errno != EACCES) break;
  }
  give_up(Step::program, failed);
}

[[noreturn]] void become(const Program& program, const Image& image, const Stdio& stdio, int report) {
  ::setsid();
  arrange_descriptors(stdio, report);
  if (stdio.terminal && ::ioctl(0, TIOCSCTTY, 0) != 0) give_up(Step::terminal, errno);
  write_text("/proc/self/oom_score_adj", "100");  // programs of users go before the agent
  take_credentials(program.user);
  if (::chdir(program.directory.c_str()) != 0) give_up(Step::directory, errno);
  reset_signals();
  execute(image);
}

/// Born in its control group: moving a process later waits for an RCU grace period, milliseconds each time.
pid_t fork_into(int cgroup) {
  if (cgroup < 0) return ::fork();
  clone_args arguments{};
  arguments.flags = CLONE_INTO_CGROUP;
  arguments.exit_signal = SIGCHLD;
  arguments.cgroup = static_cast<__u64>(cgroup);
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
}

}  // namespace

Result<Started> start_program(const Program& program, const Stdio& stdio, int cgroup) {
  const Image image{candidates_for(program), pointers_to(program.arguments),
                    pointers_to(program.environment)};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return os_error(errno, "cannot create a pipe");
  Fd read_end(ends[0]);
  const Fd write_end(ends[1]);
  const pid_t pid = fork_into(cgroup);
  if (pid < 0) return os_error(errno, "cannot start a process");
  if (pid == 0) become(program, image, stdio, write_end.get());
  return Started{pid, std::move(read_end)};
}

Error explain(const ExecFailure& failure, const Program& program) {
  const char* reason = ::strerrordesc_np(failure.os_errno);
  const std::string why = reason ? reason : "unknown error";
  switch (failure.step) {
    case Step::directory:
      if (failure.os_errno == ENOENT)
        return make_error(ErrorCode::invalid_argument, "cwd '" + program.directory + "' does not exist");
      return make_error(ErrorCode::invalid_argument,
                        "cwd '" + program.directory + "' cannot be entered: " + why);
    case Step::program:
      return make_error(ErrorCode::invalid_argument,
                        "cannot execute '" + program.arguments.front() + "': " + why);
    case Step::credentials:
      return make_error(ErrorCode::permission_denied,
                        "cannot become user '" + program.user.name + "': " + why);
    case Step::terminal:
    case Step::stdio: break;
  }
  return make_error(ErrorCode::internal, "cannot set up a new process: " + why);
}

}  // namespace cube::agent
