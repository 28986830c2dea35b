#include "exec.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace cube::agent {
namespace {

using Step = ExecFailure::Step;

constexpr std::size_t child_stack_size = 32 << 10;

/// Everything the child needs, laid out beforehand: it must not allocate.
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

/// What the child is to become. It runs in the agent's memory until then, so what it writes here is read
/// there.
struct Birth {
  const Program& program;
  const Image& image;
  const Stdio& stdio;
  std::optional<ExecFailure> failure;

  [[noreturn]] void give_up(Step step) {
    failure = ExecFailure{step, errno};
    ::_exit(127);
  }
  [[noreturn]] void become();
  void arrange_descriptors();
  void take_credentials();
  [[noreturn]] void execute();
};

void Birth::arrange_descriptors() {
  if (::dup2(stdio.input, 0) < 0 || ::dup2(stdio.output, 1) < 0 || ::dup2(stdio.error, 2) < 0)
    give_up(Step::stdio);
  ::close_range(STDERR_FILENO + 1, ~0U, 0);
}

void write_text(const char* path, const char* text) {
  const int file = ::open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t ignored = ::write(file, text, std::strlen(text));
  ::close(file);
}

/// The raw system calls, which change this process only: the C library's also visit threads that were not
/// copied.
void Birth::take_credentials() {
  const User& user = program.user;
  if (::geteuid() != 0 && ::geteuid() == user.uid) return;
  if (::syscall(SYS_setgroups, user.groups.size(), user.groups.data()) != 0 ||
      ::syscall(SYS_setresgid, user.gid, user.gid, user.gid) != 0 ||
      ::syscall(SYS_setresuid, user.uid, user.uid, user.uid) != 0)
    give_up(Step::credentials);
}

void reset_signals() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < 32; ++number) ::sigaction(number, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void Birth::execute() {
  int failed = ENOENT;
  for (const std::string& candidate : image.candidates) {
    ::execve(candidate.c_str(), image.arguments.data(), image.environment.data());
    if (errno == ENOENT || errno == ENOTDIR) continue;
    failed = errno;
    if (errno != EACCES) break;
  }
  errno = failed;
  give_up(Step::program);
}

void Birth::become() {
  ::setsid();
  arrange_descriptors();
  if (stdio.terminal && ::ioctl(0, TIOCSCTTY, 0) != 0) give_up(Step::terminal);
  write_text("/proc/self/oom_score_adj", "100");  // programs of users go before the agent
  take_credentials();
  if (::chdir(program.directory.c_str()) != 0) give_up(Step::directory);
  reset_signals();
  execute();
}

void enter(Birth* birth) { birth->become(); }

/// As vfork does it: the child borrows the agent's memory, which waits until it has become the program or has
/// ended. Nothing is copied, and no page of the agent is written for the first time again, as each would be
/// after a fork. Born in its control group: moving a process later waits for an RCU grace period,
/// milliseconds each time. The C library's wrappers cannot do the two together.
pid_t give_birth(Birth& birth, int cgroup) {
  alignas(16) std::array<std::byte, child_stack_size> stack;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK;
  arguments.exit_signal = SIGCHLD;
  arguments.stack = reinterpret_cast<__u64>(stack.data());
  arguments.stack_size = stack.size();
  if (cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<__u64>(cgroup);
  }
  long result = SYS_clone3;
#if defined(__x86_64__)
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "mov %[birth], %%rdi\n\t"  // the child, on its own empty stack
      "call *%[enter]\n\t"
      "1:"
      : "+a"(result)
      : "D"(&arguments), "S"(sizeof arguments), [birth] "r"(&birth), [enter] "r"(&enter)
      : "rcx", "r11", "memory", "cc");
#else
#error "how a child starts on a stack of its own is written for x86-64 only"
#endif
  if (result >= 0) return static_cast<pid_t>(result);
  errno = static_cast<int>(-result);
  return -1;
}

}  // namespace

Result<Started> start_program(const Program& program, const Stdio& stdio, int cgroup) {
  const Image image{candidates_for(program), pointers_to(program.arguments),
                    pointers_to(program.environment)};
  Birth birth{program, image, stdio, std::nullopt};
  const pid_t pid = give_birth(birth, cgroup);
  if (pid < 0) return os_error(errno, "cannot start a process");
  return Started{pid, birth.failure};
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
