#include "vmm/vcpu_thread.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

namespace cube::vmm {
namespace {

// A signal takes a thread out of KVM_RUN. Its disposition belongs to the process, so it is set once.
int kick_signal() {
  static const int signal = [] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    sigemptyset(&action.sa_mask);
    ::sigaction(SIGRTMIN, &action, nullptr);
    return SIGRTMIN;
  }();
  return signal;
}

// Everything but the kick belongs to the daemon's own threads.
void block_other_signals() {
  sigset_t blocked;
  sigfillset(&blocked);
  sigdelset(&blocked, kick_signal());
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigdelset(&blocked, fault);
  ::pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
}

}  // namespace

VcpuThread::VcpuThread(Vcpu& vcpu, ExitHandler& handler, std::uint32_t index)
    : vcpu_(vcpu), handler_(handler) {
  kick_signal();
  // Born with every signal blocked: the thread decides itself which it takes.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this, index] { main(index); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void VcpuThread::join() {
  if (!thread_.joinable()) return;
  request_stop();
  thread_.join();
}

void VcpuThread::resume() {
  const std::scoped_lock lock(mutex_);
  if (command_ != Command::park) return;
  command_ = Command::run;
  changed_.notify_all();
}

void VcpuThread::request_pause() {
  const std::scoped_lock lock(mutex_);
  if (command_ != Command::run) return;
  command_ = Command::park;
  kick();
}

void VcpuThread::ask(std::function<void()> errand) {
  const std::scoped_lock lock(mutex_);
  errand_ = std::move(errand);
  if (command_ == Command::run) kick();
}

std::chrono::nanoseconds VcpuThread::cpu_time() {
  clockid_t clock{};
  timespec time{};
  if (::pthread_getcpuclockid(thread_.native_handle(), &clock) != 0 || ::clock_gettime(clock, &time) != 0)
    return {};
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

void VcpuThread::request_stop() {
  const std::scoped_lock lock(mutex_);
  command_ = Command::quit;
  changed_.notify_all();
  kick();
}

void VcpuThread::wait_parked() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return parked_; });
}

// The flag catches a thread that is about to enter KVM_RUN, the signal one that is inside.
void VcpuThread::kick() {
  std::atomic_ref(vcpu_.shared().immediate_exit).store(1);
  ::pthread_kill(thread_.native_handle(), kick_signal());
}

void VcpuThread::main(std::uint32_t index) {
  block_other_signals();
  char name[16];
  std::snprintf(name, sizeof name, "vcpu%u", index);
  ::pthread_setname_np(::pthread_self(), name);  // of another thread it would go through /proc
  // Who serves a guest may go before others; the guest itself is a tenant like any other.
  ::setpriority(PRIO_PROCESS, 0, 0);  // its own
  while (obey())
    if (go_on()) run_until_interrupted();
}

/// Waits while the command is to park; false to quit.
bool VcpuThread::obey() {
  std::unique_lock lock(mutex_);
  parked_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return command_ != Command::park; });
  if (command_ == Command::quit) return false;  // parked for good
  parked_ = false;
  return true;
}

/// Before KVM_RUN, and when it was interrupted: does what was asked for; false if it is to park or quit.
bool VcpuThread::go_on() {
  std::unique_lock lock(mutex_);
  if (command_ != Command::run) return false;
  std::atomic_ref(vcpu_.shared().immediate_exit).store(0);
  const auto errand = std::exchange(errand_, nullptr);
  lock.unlock();
  if (errand) errand();
  return true;
}

// With immediate_exit set KVM_RUN still completes the access of the last exit before it returns EINTR; so a
// thread that stops only at EINTR never leaves one half done.
void VcpuThread::run_until_interrupted() {
  for (;;) {
    const int error = vcpu_.run();
    if (error == EINTR) {
      if (!go_on()) return;
      continue;
    }
    if (error == EAGAIN) continue;  // an application processor that was just started
    if (error == EFAULT) return handler_.on_memory_error(os_error(error, "KVM_RUN failed").describe());
    if (error != 0) return handler_.on_host_error(os_error(error, "KVM_RUN failed").describe());
    if (!handle_exit()) return;
  }
}

/// False if the vCPU cannot go on; the handler has then asked every thread to stop.
bool VcpuThread::handle_exit() {
  kvm_run& run = vcpu_.shared();
  switch (run.exit_reason) {
    case KVM_EXIT_IO: handle_port_exit(); return true;
    case KVM_EXIT_MMIO: {
      const std::size_t length = std::min<std::size_t>(run.mmio.len, sizeof run.mmio.data);
      const auto data = std::as_writable_bytes(std::span(run.mmio.data)).first(length);
      if (run.mmio.is_write != 0)
        handler_.write_mmio(run.mmio.phys_addr, data);
      else
        handler_.read_mmio(run.mmio.phys_addr, data);
      return true;
    }
    case KVM_EXIT_INTR:
    case KVM_EXIT_HLT:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_IOAPIC_EOI: return true;  // all pins are edge-triggered: nothing waits for an EOI
    case KVM_EXIT_SHUTDOWN: handler_.on_reset("triple fault"); return false;
    case KVM_EXIT_SYSTEM_EVENT: handler_.on_reset("system event"); return false;
    case KVM_EXIT_INTERNAL_ERROR:
      handler_.on_guest_error("KVM cannot run the guest: internal error " +
                              std::to_string(run.internal.suberror));
      return false;
    case KVM_EXIT_FAIL_ENTRY:
      handler_.on_host_error("the processor refuses the guest's state: reason " +
                             std::to_string(run.fail_entry.hardware_entry_failure_reason));
      return false;
    default:
      handler_.on_guest_error("an exit nobody handles: KVM exit reason " + std::to_string(run.exit_reason));
      return false;
  }
}

void VcpuThread::handle_port_exit() {
  const auto io = vcpu_.shared().io;
  const std::span<std::byte> page = vcpu_.shared_bytes();
  for (std::uint32_t i = 0; i < io.count; ++i) {
    const std::uint64_t offset = io.data_offset + std::uint64_t{i} * io.size;
    if (offset + io.size > page.size()) return;
    const auto data = page.subspan(offset, io.size);
    if (io.direction == KVM_EXIT_IO_OUT)
      handler_.write_port(io.port, data);
    else
      handler_.read_port(io.port, data);
  }
}

}  // namespace cube::vmm
