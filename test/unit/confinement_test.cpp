// What a machine's process can still call, tried in a child that is confined.
#include "vmm/process/confinement.hpp"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <functional>

using namespace cube;

namespace {

constexpr int not_confined = 255;

/// How a confined child ends in which `body` runs; its result is the exit status.
int status_of_confined(const std::function<int()>& body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (!vmm::confine_process().ok()) ::_exit(not_confined);
    ::_exit(body());
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

/// The error of a system call none of whose arguments means anything, as a confined process gets it.
int error_of(long number) {
  const int status = status_of_confined([number] {
    errno = 0;
    ::syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
    return errno;
  });
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) != not_confined);
  return WEXITSTATUS(status);
}

constexpr long x32_bit = 0x40000000;

}  // namespace

TEST_CASE("a confined process cannot open, connect, execute, signal or trace") {
  const long number = GENERATE(
      SYS_open, SYS_openat, SYS_openat2, SYS_open_by_handle_at, SYS_creat, SYS_stat, SYS_access, SYS_unlink,
      SYS_socket, SYS_socketpair, SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_pipe,
      SYS_pipe2, SYS_dup, SYS_dup2, SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_kill, SYS_tkill,
      SYS_rt_sigqueueinfo, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_ptrace, SYS_process_vm_readv,
      SYS_process_vm_writev, SYS_process_madvise, SYS_io_uring_setup, SYS_bpf, SYS_perf_event_open, SYS_mount,
      SYS_unshare, SYS_setns, SYS_chroot, SYS_setuid, SYS_setresuid, SYS_capset, SYS_keyctl, SYS_memfd_create,
      SYS_shmat, SYS_shmget, SYS_msync, SYS_mincore, SYS_pwrite64, SYS_pwritev, SYS_epoll_create1,
      SYS_eventfd2, SYS_timerfd_create, SYS_init_module, SYS_kexec_load, SYS_reboot);
  CHECK(error_of(number) == EPERM);
}

TEST_CASE("a confined process is refused numbers nobody has and those of x32") {
  const long number = GENERATE(1000L, 0x7fffffffL, x32_bit | SYS_read, x32_bit | SYS_mmap, 0xffffffffL);
  CHECK(error_of(number) == EPERM);
}

TEST_CASE("a confined process reads, writes, maps and waits") {
  const long number =
      GENERATE(SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_lseek,
               SYS_fstat, SYS_newfstatat, SYS_recvmsg, SYS_sendmsg, SYS_recvfrom, SYS_sendto, SYS_shutdown,
               SYS_getsockopt, SYS_setsockopt, SYS_close, SYS_fcntl, SYS_ioctl, SYS_ppoll, SYS_epoll_ctl,
               SYS_epoll_wait, SYS_epoll_pwait, SYS_timerfd_settime, SYS_mmap, SYS_munmap, SYS_mremap,
               SYS_madvise, SYS_clone3, SYS_futex, SYS_clock_gettime, SYS_getrandom, SYS_getpid, SYS_gettid);
  CHECK(error_of(number) != EPERM);
}

TEST_CASE("a confined process signals its own threads and no others") {
  const pid_t parent = ::getpid();
  const int status = status_of_confined([parent] {
    const auto own = ::syscall(SYS_tgkill, ::syscall(SYS_getpid), ::syscall(SYS_gettid), 0);
    const auto others = ::syscall(SYS_tgkill, parent, parent, 0);
    return own == 0 && others == -1 && errno == EPERM ? 0 : 1;
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a confined thread changes its own priority and no other's") {
  const pid_t parent = ::getpid();
  const int status = status_of_confined([parent] {
    const bool own = ::setpriority(PRIO_PROCESS, 0, 5) == 0;
    bool refused = true;
    const auto refuse = [&](int which, id_t who) {
      errno = 0;
      refused &= ::setpriority(which, who, 6) == -1 && errno == EPERM;
    };
    refuse(PRIO_PROCESS, static_cast<id_t>(parent));
    refuse(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_getpid)));
    refuse(PRIO_PGRP, 0);
    refuse(PRIO_USER, 0);
    return own && refused ? 0 : 1;
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

#ifdef __x86_64__
TEST_CASE("a confined process that makes a 32-bit system call is killed") {
  const int status = status_of_confined([] {
    long result = 20;  // getpid
    asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    return 0;
  });
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSYS);
}
#endif
