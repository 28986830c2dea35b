#include "boot.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <cube/core.hpp>
#include <thread>

#include "names.hpp"
#include "network.hpp"

namespace cube::agent {
namespace {

void report(const Error& error) { log(LogLevel::warning, "boot", error.describe()); }

struct Mount {
  const char* source;
  const char* target;
  const char* type;
  unsigned long flags;
  const char* options;
};

constexpr unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;

constexpr Mount mounts[] = {
    {"devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"},
    {"proc", "/proc", "proc", plain, nullptr},
    {"sysfs", "/sys", "sysfs", plain, nullptr},
    {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"cgroup2", "/sys/fs/cgroup", "cgroup2", plain, "nsdelegate,memory_recursiveprot"},
};

void mount_all() {
  for (const Mount& one : mounts) {
    ::mkdir(one.target, 0755);
    // EBUSY: the kernel has mounted it already (CONFIG_DEVTMPFS_MOUNT).
    if (::mount(one.source, one.target, one.type, one.flags, one.options) != 0 && errno != EBUSY)
      report(os_error(errno, "cannot mount", one.target));
  }
  // Access times would make every read a write, and every write a block this clone does not share.
  if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_NOATIME, nullptr) != 0)
    report(os_error(errno, "cannot remount", "/"));
  // As systemd does: container engines expect mounts to propagate.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr) != 0)
    report(os_error(errno, "cannot share mounts of", "/"));
}

/// Descriptors 0 to 2 are open, so that no file of ours becomes anybody's standard output.
void open_standard_descriptors() {
  int descriptor = 0;
  do {
    descriptor = ::open("/dev/console", O_RDWR | O_NOCTTY);
    if (descriptor < 0) descriptor = ::open("/dev/null", O_RDWR);
  } while (descriptor >= 0 && descriptor <= STDERR_FILENO);
  if (descriptor > STDERR_FILENO) ::close(descriptor);
}

void make_links_and_directories() {
  constexpr const char* links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                      {"/proc/self/fd/0", "/dev/stdin"},
                                      {"/proc/self/fd/1", "/dev/stdout"},
                                      {"/proc/self/fd/2", "/dev/stderr"}};
  for (const auto& [target, link] : links)
    if (::symlink(target, link) != 0 && errno != EEXIST) report(os_error(errno, "cannot create", link));
  if (::mkdir("/run/lock", 01777) == 0) ::chmod("/run/lock", 01777);
}

void write_setting(const std::string& path, std::string_view value) {
  const auto file = open_file(path, O_WRONLY);
  if (!file) return report(file.error());
  if (::write(file->get(), value.data(), value.size()) < 0) report(os_error(errno, "cannot write", path));
}

void set_kernel_parameters() {
  write_setting("/proc/sys/fs/inotify/max_user_watches", "524288");
  write_setting("/proc/sys/fs/inotify/max_user_instances", "1024");
  write_setting("/proc/sys/vm/max_map_count", "262144");
  write_setting("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
  write_setting("/proc/self/oom_score_adj", "-1000");
}

/// A thousand idle clones wake their host as often as all of them together.
void sleep_soundly() {
  // No compaction ahead of need (two wake-ups a second); the counters of /proc/vmstat are summed up once a
  // minute instead of every second.
  write_setting("/proc/sys/vm/compaction_proactiveness", "0");
  write_setting("/proc/sys/vm/stat_interval", "60");
  // The generator was seeded by now, and is anew in each clone: no thread that asks for more now and then.
  write_setting("/sys/class/misc/hw_random/rng_current", "none");
  // Linux 6.12's guard of ordinary tasks against real-time ones: a timer for each time a processor gets to
  // work.
  constexpr const char* debug = "/sys/kernel/debug";
  if (::mount("debugfs", debug, "debugfs", plain, nullptr) != 0)
    return report(os_error(errno, "cannot mount", debug));
  for (unsigned cpu = 0; cpu < std::thread::hardware_concurrency(); ++cpu)
    write_setting(std::string(debug) + "/sched/fair_server/cpu" + std::to_string(cpu) + "/runtime", "0");
  if (::umount(debug) != 0) report(os_error(errno, "cannot unmount", debug));
}

void prepare_cgroups() {
  // One at a time: a controller the kernel lacks would take the others with it.
  for (const char* controller : {"+cpu", "+cpuset", "+io", "+memory", "+pids"})
    write_setting("/sys/fs/cgroup/cgroup.subtree_control", controller);
  if (::mkdir(user_cgroup, 0755) != 0 && errno != EEXIST)
    report(os_error(errno, "cannot create", user_cgroup));
}

void raise_limits() {
  const rlimit files{65536, 1 << 20};
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0)
    report(os_error(errno, "cannot raise the limit of open files"));
}

void ignore_signals() {
  for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGPIPE}) ::signal(number, SIG_IGN);
}

/// Whether every child is gone before `deadline` (CLOCK_MONOTONIC seconds).
bool reap_until(time_t deadline) {
  timespec now{};
  for (;;) {
    if (::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD) return true;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec >= deadline) return false;
    const timespec pause{0, 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

void end_every_process() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  ::kill(-1, SIGTERM);
  if (reap_until(now.tv_sec + 2)) return;
  ::kill(-1, SIGKILL);
  reap_until(now.tv_sec + 4);
}

[[noreturn]] void reset_machine() {
  for (;;) {
    ::reboot(RB_AUTOBOOT);
    ::pause();
  }
}

}  // namespace

void boot() {
  ignore_signals();
  ::umask(022);
  mount_all();
  open_standard_descriptors();
  make_links_and_directories();
  if (auto kept = keep_names_in_memory(""); !kept) report(kept.error());
  raise_limits();
  set_kernel_parameters();
  sleep_soundly();
  prepare_cgroups();
  ::setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  ::setenv("HOME", "/root", 1);
  if (auto up = bring_up_loopback(); !up) report(up.error());
  if (auto up = configure_ethernet(); !up) report(up.error());
}

void shut_down() {
  end_every_process();
  ::sync();
  // Fails while files are open for writing; then what was synced is what there is.
  ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
  reset_machine();
}

void die(const std::string& reason) {
  log(LogLevel::error, "agent", reason);
  ::sync();
  reset_machine();
}

}  // namespace cube::agent
