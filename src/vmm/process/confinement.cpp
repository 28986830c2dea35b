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
                           SYS_setpriority,
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

sock_filter load(std::size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset));
}
sock_filter answer(unsigned action) { return BPF_STMT(BPF_RET | BPF_K, action); }
/// Skips the next instruction unless the loaded word is `value`.
sock_filter unless(unsigned value) { return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1); }

/// Seccomp's language is classic BPF: every jump is forward.
std::vector<sock_filter> make_filter(pid_t self) {
  constexpr auto first_argument = offsetof(seccomp_data, args);  // its low half
  std::vector<sock_filter> filter = {
      load(offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, x86_64::audit_architecture, 1, 0),
      answer(SECCOMP_RET_KILL_PROCESS),
      load(offsetof(seccomp_data, nr)),
  };
  for (const int number : allowed) {
    filter.push_back(unless(static_cast<unsigned>(number)));
    filter.push_back(answer(SECCOMP_RET_ALLOW));
  }
  // Threads are taken out of KVM_RUN by signals: those of this process.
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 3));
  filter.push_back(load(first_argument));
  filter.push_back(unless(static_cast<unsigned>(self)));
  filter.push_back(answer(SECCOMP_RET_ALLOW));
  filter.push_back(answer(SECCOMP_RET_ERRNO | EPERM));
  return filter;
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
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    return os_error(errno, "cannot filter system calls");
  return {};
}

}  // namespace cube::vmm
