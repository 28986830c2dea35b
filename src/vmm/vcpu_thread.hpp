// A vCPU's thread: KVM_RUN, and the exits it leads to. It can be parked at an instruction boundary with no
// exit half done, which is where its state may be saved.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "vmm/kvm.hpp"

namespace cube::vmm {

/// Where a vCPU's accesses to ports and to memory without RAM go. Called on the vCPU's thread.
class ExitHandler {
 public:
  virtual ~ExitHandler() = default;
  virtual void read_port(std::uint16_t port, std::span<std::byte> data) = 0;
  virtual void write_port(std::uint16_t port, std::span<const std::byte> data) = 0;
  virtual void read_mmio(std::uint64_t address, std::span<std::byte> data) = 0;
  virtual void write_mmio(std::uint64_t address, std::span<const std::byte> data) = 0;

  /// The vCPU cannot go on; its thread parks for good.
  virtual void on_reset(std::string detail) = 0;
  virtual void on_guest_error(std::string detail) = 0;
  virtual void on_host_error(std::string detail) = 0;
  virtual void on_memory_error(std::string detail) = 0;  ///< guest memory cannot be reached
};

class VcpuThread {
 public:
  /// Both outlive the thread.
  VcpuThread(Vcpu& vcpu, ExitHandler& handler, std::uint32_t index);
  ~VcpuThread() { join(); }
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  void resume();
  void request_pause();  ///< returns at once
  void wait_parked();

  /// Has the vCPU's thread do what KVM lets nobody else do while that is in KVM_RUN: soon, or before it is
  /// resumed. Does not wait. What was asked for before and is not done yet never will be.
  void ask(std::function<void()> errand);

  /// For how long it has had a processor.
  std::chrono::nanoseconds cpu_time();

  /// Leaves KVM_RUN for good, without waiting. Safe from any thread, the vCPU's own included.
  void request_stop();

  /// Stops and waits until the thread is gone. Idempotent.
  void join();

 private:
  enum class Command { park, run, quit };

  void main(std::uint32_t index);
  bool obey();
  bool go_on();
  void run_until_interrupted();
  bool handle_exit();
  void handle_port_exit();
  void kick();

  Vcpu& vcpu_;
  ExitHandler& handler_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Command command_ = Command::park;
  bool parked_ = false;
  std::function<void()> errand_;
  std::thread thread_;
};

}  // namespace cube::vmm
