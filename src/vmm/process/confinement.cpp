#include "vmm/process/confinement.hpp"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "vmm/arch/x86_64/system_calls.hpp"

namespace cube::vmm {
namespace {

constexpr unsigned nobody = 65534;

// Devices, vCPUs and relays: transfers, memory, threads, waiting. Of the ioctls KVM's are meant; which ones
// can be called depends on the descriptors, and there is none but the machine's.
constexpr int allowed[] = {SYS_read,
                           SYS_write,
                           SYS_readv,
                           SYS_writev,
                           SYS_pread64,
                           SYS_preadv,
                           SYS_preadv2,
                           SYS_lseek,
                           SYS_fstat,
                           SYS_newfstatat,
                           SYS_recvmsg,
                           SYS_sendmsg,
                           SYS_recvfrom,
                           SYS_sendto,
                           SYS_shutdown,
                           SYS_getsockopt,
                           SYS_setsockopt,
                           SYS_close,
                           SYS_fcntl,
                           SYS_ioctl,
                           SYS_poll,
                           SYS_ppoll,
                           SYS_epoll_ctl,
                           SYS_epoll_wait,
                           SYS_epoll_pwait,
                           SYS_timerfd_settime,
                           SYS_userfaultfd,
                           SYS_mmap,
                           SYS_munmap,
                           SYS_mremap,
                           SYS_mprotect,
                           SYS_madvise,
                           SYS_brk,
                           SYS_clone,
                           SYS_clone3,
                           SYS_set_robust_list,
                           SYS_rseq,
                           SYS_futex,
                           SYS_membarrier,
                           SYS_sched_yield,
                           SYS_sched_getaffinity,
                           SYS_rt_sigaction,
                           SYS_rt_sigprocmask,
                           SYS_rt_sigreturn,
                           SYS_sigaltstack,
                           SYS_prctl,
                           SYS_getpid,
                           SYS_gettid,
                           SYS_nanosleep,
                           SYS_clock_nanosleep,
                           SYS_clock_gettime,
                           SYS_gettimeofday,
                           SYS_getrandom,
                           SYS_restart_syscall,
                           SYS_exit,
                           SYS_exit_group};

/// In instructions: what a jump holds. In a filter that is no longer, none can need more.
constexpr std::size_t farthest_jump = 255;

/// A filter in seccomp's language, classic BPF, written from its end: every jump is forward, so what it leads
/// to is there already. A label is the number of instructions from one to the end, itself included.
class Filter {
 public:
  using Label = std::size_t;

  Label answer(unsigned action) { return add(BPF_STMT(BPF_RET | BPF_K, action)); }
  Label load(std::size_t offset) {
    return add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset)));
  }
  /// `comparison` of the loaded word with `value` (BPF_JEQ, BPF_JGE).
  Label jump(unsigned comparison, unsigned value, Label if_true, Label if_false) {
    return add(BPF_JUMP(BPF_JMP | BPF_K | comparison, value, distance(if_true), distance(if_false)));
  }
  std::vector<sock_filter> program() const { return {reversed_.rbegin(), reversed_.rend()}; }

 private:
  Label add(const sock_filter& instruction) {
    reversed_.push_back(instruction);
    return reversed_.size();
  }
  unsigned char distance(Label label) const { return static_cast<unsigned char>(reversed_.size() - label); }

  std::vector<sock_filter> reversed_;
};

/// What applies to the system calls from `first` to the next range.
struct Range {
  unsigned first;
  Filter::Label verdict;
};

/// Finds the range of a system call by halving. The kernel runs a filter for every number there is when it is
/// installed (kernel/seccomp.c, seccomp_cache_prepare), for every machine's process: a list costs it ten
/// times this.
Filter::Label find_range(Filter& filter, std::span<const Range> ranges) {
  if (ranges.size() == 1) return ranges.front().verdict;
  const auto middle = ranges.size() / 2;
  const auto upper = find_range(filter, ranges.subspan(middle));
  const auto lower = find_range(filter, ranges.first(middle));
  return filter.jump(BPF_JGE, ranges[middle].first, upper, lower);
}

std::vector<sock_filter> make_filter(pid_t self) {
  Filter filter;
  const auto refuse = filter.answer(SECCOMP_RET_ERRNO | EPERM);
  const auto allow = filter.answer(SECCOMP_RET_ALLOW);
  const auto kill = filter.answer(SECCOMP_RET_KILL_PROCESS);
  // Threads are taken out of KVM_RUN by signals: those of this process.
  filter.jump(BPF_JEQ, static_cast<unsigned>(self), allow, refuse);
  const auto signal = filter.load(offsetof(seccomp_data, args));  // the first one's low half

  // A thread's priority is its own affair; other machines' processes are nobody's, too.
  filter.jump(BPF_JEQ, 0, allow, refuse);
  const auto of_whom = filter.load(offsetof(seccomp_data, args) + sizeof(std::uint64_t));
  filter.jump(BPF_JEQ, PRIO_PROCESS, of_whom, refuse);
  const auto priority = filter.load(offsetof(seccomp_data, args));

  std::map<unsigned, Filter::Label> verdicts = {{SYS_tgkill, signal}, {SYS_setpriority, priority}};
  for (const int number : allowed) verdicts.emplace(number, allow);
  std::vector<Range> ranges;
  unsigned next = 0;
  for (const auto& [number, verdict] : verdicts) {
    if (number != next) ranges.push_back({next, refuse});
    if (ranges.empty() || ranges.back().verdict != verdict) ranges.push_back({number, verdict});
    next = number + 1;
  }
  ranges.push_back({next, refuse});

  find_range(filter, ranges);
  const auto number = filter.load(offsetof(seccomp_data, nr));
  filter.jump(BPF_JEQ, x86_64::audit_architecture, number, kill);
  filter.load(offsetof(seccomp_data, arch));
  return filter.program();
}

Result<void> drop_privileges() {
  if (::geteuid() != 0) return {};
  if (::setgroups(0, nullptr) != 0 || ::setresgid(nobody, nobody, nobody) != 0 ||
      ::setresuid(nobody, nobody, nobody) != 0)
    return os_error(errno, "cannot become nobody");
  return {};
}

}  // namespace

Result<void> confine_process() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  CUBE_TRY(drop_privileges());
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return os_error(errno, "cannot give up new privileges");
  auto filter = make_filter(::getpid());
  if (filter.size() > farthest_jump)
    return make_error(ErrorCode::internal, "the filter of system calls is too long");
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    return os_error(errno, "cannot filter system calls");
  return {};
}

}  // namespace cube::vmm
