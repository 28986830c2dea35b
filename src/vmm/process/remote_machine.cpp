// Machines in processes of their own, from the daemon's side.
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <cerrno>
#include <csignal>
#include <cube/vmm.hpp>
#include <mutex>
#include <thread>

#include "vmm/local_shell.hpp"
#include "vmm/process/channel.hpp"
#include "vmm/process/daemon_link.hpp"
#include "vmm/process/disk_socket.hpp"
#include "vmm/process/messages.hpp"
#include "vmm/process/sockets.hpp"
#include "vmm/process/spawner.hpp"

namespace cube::vmm {
namespace {

/// No call takes as long; a process that does not answer is not what it was.
constexpr std::chrono::seconds patience{120};

/// The longest is the state of a machine with many vCPUs.
constexpr std::uint32_t most_answer = 16u << 20;

/// Threads that serve disks. Not the daemon's workers: those may all be waiting for machines to pause, which
/// wait for their disks.
class DiskThreads {
 public:
  explicit DiskThreads(unsigned count) {
    for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { context_.run(); });
  }
  ~DiskThreads() {
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
  }
  asio::any_io_executor executor() { return context_.get_executor(); }

 private:
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
  std::vector<std::thread> threads_;
};

/// A process that is about to make a shell, and the calls into it, from any thread. It ends with the object.
class Process {
 public:
  static Result<std::unique_ptr<Process>> make(Fd socket) {
    auto process = std::make_unique<Process>(std::move(socket));
    CUBE_TRY(process->channel_.set_patience(patience));
    return process;
  }

  explicit Process(Fd socket) : channel_(std::move(socket)) {}
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Blocks until memory, vCPUs and descriptors are given back.
  ~Process() {
    if (!handle_) return;  // it is not ready, and ends when it finds nobody to answer
    kill();
    pollfd ended{handle_.get(), POLLIN, 0};
    retry_interrupted([&] { return ::poll(&ended, 1, -1); });
  }

  /// Does not wait.
  void kill() { ::syscall(SYS_pidfd_send_signal, handle_.get(), SIGKILL, nullptr, 0); }

  /// Waits for its shell.
  Result<void> wait_ready() {
    const std::scoped_lock lock(mutex_);
    return take_shell();
  }
  bool ready() const { return static_cast<bool>(handle_); }

  /// Once it is ready.
  const std::shared_ptr<const ProcessMemory>& memory() const { return memory_; }

  /// The first does not wait for the shell before it is sent, so that the process goes on at once.
  Result<std::string> call(Call call, std::string_view bytes, std::span<const int> descriptors = {}) {
    const std::scoped_lock lock(mutex_);
    CUBE_TRY(channel_.send(static_cast<std::uint32_t>(call), bytes, descriptors));
    CUBE_TRY(take_shell());
    return take_answer();
  }

  Result<void> tell(Call call) {
    const std::scoped_lock lock(mutex_);
    return channel_.send(static_cast<std::uint32_t>(call), {});
  }

 private:
  /// The order's answer, if it has not come yet.
  Result<void> take_shell() {
    if (ready()) return {};
    std::vector<Fd> descriptors;
    const auto regions = take_answer(&descriptors);
    if (!regions) return regions.error();
    auto places = decode_regions(*regions);
    if (!places) return std::move(places).error();
    if (descriptors.size() != 4) return make_error(ErrorCode::internal, "a shell without its descriptors");
    memory_ = std::make_shared<const ProcessMemory>(std::move(descriptors[0]), std::move(descriptors[1]),
                                                    std::move(descriptors[2]), std::move(*places));
    handle_ = std::move(descriptors[3]);
    return {};
  }

  Result<std::string> take_answer(std::vector<Fd>* descriptors = nullptr) {
    auto answer = channel_.receive(
        descriptors != nullptr ? Channel::Descriptors::taken : Channel::Descriptors::refused, most_answer);
    if (!answer) return std::move(answer).error();
    if (descriptors != nullptr) *descriptors = std::move(answer->descriptors);
    return decode_answer(answer->bytes);
  }

  std::mutex mutex_;
  Channel channel_;
  std::shared_ptr<const ProcessMemory> memory_;
  Fd handle_;  ///< a pidfd
};

/// Processes on order, from any thread, and what serves all their disks.
class Processes {
 public:
  explicit Processes(Spawner spawner) : spawner_(std::move(spawner)) {}

  Result<std::unique_ptr<Process>> order(const ShellShape& shape) {
    auto socket = spawn(shape);
    if (!socket) return std::move(socket).error();
    return Process::make(std::move(*socket));
  }

  /// Does `use(Process&)` with `process`, or with another one if that ended while it waited for its order,
  /// for want of memory perhaps: it may have taken the order with it.
  template <class Use>
  auto or_with_another(std::unique_ptr<Process>& process, const ShellShape& shape, Use use)
      -> decltype(use(*process)) {
    for (int i = 1;; ++i) {
      auto used = use(*process);
      if (used || process->ready() || used.error().code != ErrorCode::unavailable || i == attempts)
        return used;
      auto another = order(shape);
      if (!another) return std::move(another).error();
      process = std::move(*another);
    }
  }

  /// Once one was ordered.
  const std::shared_ptr<DiskThreads>& disk_threads() const { return disk_threads_; }

 private:
  static constexpr int attempts = 3;

  Result<Fd> spawn(const ShellShape& shape) {
    const std::scoped_lock lock(mutex_);
    if (!disk_threads_)
      disk_threads_ = std::make_shared<DiskThreads>(std::max(2u, std::thread::hardware_concurrency()));
    return spawner_.spawn(shape);
  }

  std::mutex mutex_;
  Spawner spawner_;
  std::shared_ptr<DiskThreads> disk_threads_;  ///< no threads before the first machine
};

class RemoteMachine final : public Machine {
 public:
  RemoteMachine(std::unique_ptr<Process> process, std::shared_ptr<DiskThreads> disk_threads)
      : disk_threads_(std::move(disk_threads)), process_(std::move(process)) {}

  ~RemoteMachine() override {
    stop();
    process_.reset();
    if (disk_) disk_->retire();
  }

  /// Link, disk and tap for the process, in that order: what a call that brings a guest begins with.
  Result<std::vector<Fd>> attach(const Executors& executors, MachineConfig config) {
    std::vector<Fd> theirs;
    auto link = socket_pair(SOCK_SEQPACKET);
    if (!link) return std::move(link).error();
    auto opened = DaemonLink::open(executors.loop, std::move((*link)[0]), std::move(config.on_console),
                                   std::move(config.on_stop));
    if (!opened) return std::move(opened).error();
    link_ = std::move(*opened);
    theirs.push_back(std::move((*link)[1]));
    if (config.root_disk) {
      auto disk = socket_pair(SOCK_SEQPACKET);
      if (!disk) return std::move(disk).error();
      auto served = serve_disk(
          disk_threads_->executor(), std::move((*disk)[0]), std::move(config.root_disk), [link = link_] {
            link->stop({StopReason::Kind::guest_error, "the machine's process broke the rules of its disk"});
          });
      if (!served) return std::move(served).error();
      disk_ = std::move(*served);
      theirs.push_back(std::move((*disk)[1]));
    }
    if (config.tap) theirs.push_back(std::move(config.tap));
    return theirs;
  }

  Result<void> bring(Processes& processes, const ShellShape& shape, Call call, std::string_view bytes,
                     std::span<const int> descriptors) {
    auto brought = processes.or_with_another(
        process_, shape, [&](Process& process) { return process.call(call, bytes, descriptors); });
    if (!brought) return std::move(brought).error();
    return {};
  }

  Result<void> resume() override {
    if (link_->stopped()) return make_error(ErrorCode::unavailable, "the machine has stopped");
    if (disk_) disk_->open();
    return check(process_->tell(Call::resume));
  }

  Result<void> settle() override { return call(Call::settle); }

  Result<void> pause() override {
    auto paused = call(Call::pause);
    if (disk_) disk_->close();
    return paused;
  }

  Result<MachineState> save() override {
    auto state = process_->call(Call::save, {});
    if (!state) return std::move(state).error();
    return MachineState{std::move(*state)};
  }

  void expect_use() override { link_->expect_use(); }

  Result<std::shared_ptr<const ProcessMemory>> memory() const override { return process_->memory(); }

  asio::awaitable<Result<std::unique_ptr<Stream>>> connect(std::uint32_t port,
                                                           std::chrono::milliseconds timeout) override {
    return link_->connect(port, timeout);
  }

  bool stopped() const override { return link_->stopped(); }

  void stop() override {
    if (link_) link_->stop({StopReason::Kind::requested, "stopped"});
    process_->kill();
  }

 private:
  Result<void> call(Call what) {
    auto done = process_->call(what, {});
    if (!done) return check(std::move(done).error());
    return {};
  }

  /// A process that cannot be talked to is no machine any more.
  Result<void> check(Result<void> result) {
    if (result || link_->stopped()) return result;
    const ErrorCode code = result.error().code;
    if (code != ErrorCode::deadline_exceeded && code != ErrorCode::corrupt) return result;
    link_->stop({StopReason::Kind::host_error, result.error().describe()});
    process_->kill();
    return result;
  }

  std::shared_ptr<DiskThreads> disk_threads_;
  std::unique_ptr<Process> process_;
  std::shared_ptr<DaemonLink> link_;
  std::shared_ptr<DiskServer> disk_;
};

class RemoteShell final : public MachineShell {
 public:
  RemoteShell(std::unique_ptr<Process> process, const ShellShape& shape, std::shared_ptr<Processes> processes)
      : shape_(shape), processes_(std::move(processes)), process_(std::move(process)) {}

  Result<void> wait_ready() {
    return processes_->or_with_another(process_, shape_,
                                       [](Process& process) { return process.wait_ready(); });
  }

  std::uint32_t vcpu_count() const override { return static_cast<std::uint32_t>(shape_.vcpu_count); }
  std::uint64_t memory_bytes() const override { return shape_.memory_bytes; }

  Result<std::unique_ptr<Machine>> boot(Executors executors, MachineConfig config,
                                        const BootSource& source) override {
    return bring(Call::boot, std::move(executors), std::move(config),
                 [&](const GuestSettings& settings, std::vector<int>& descriptors) {
                   descriptors.push_back(source.kernel_fd);
                   return encode_boot(settings, source.command_line);
                 });
  }

  Result<std::unique_ptr<Machine>> restore(Executors executors, MachineConfig config,
                                           const MachineState& state, const MemoryImage& memory) override {
    return bring(Call::restore, std::move(executors), std::move(config),
                 [&](const GuestSettings& settings, std::vector<int>& descriptors) {
                   return encode_restore(settings, state, memory, descriptors);
                 });
  }

 private:
  /// `describe(settings, descriptors)` encodes the guest and appends what it needs.
  template <class Describe>
  Result<std::unique_ptr<Machine>> bring(Call call, Executors executors, MachineConfig config,
                                         Describe describe) {
    CUBE_TRY(check_shape(config, *this));
    const GuestSettings settings{
        config.generation_id, config.root_disk ? config.root_disk->capacity_bytes() : 0,
        config.new_generation, static_cast<bool>(config.tap), static_cast<bool>(config.on_console)};
    auto machine = std::make_unique<RemoteMachine>(std::move(process_), processes_->disk_threads());
    auto attached = machine->attach(executors, std::move(config));
    if (!attached) return std::move(attached).error();
    std::vector<int> descriptors;
    for (const Fd& descriptor : *attached) descriptors.push_back(descriptor.get());
    const std::string bytes = describe(settings, descriptors);
    CUBE_TRY(machine->bring(*processes_, shape_, call, bytes, descriptors));
    return std::unique_ptr<Machine>(std::move(machine));
  }

  const ShellShape shape_;
  const std::shared_ptr<Processes> processes_;
  std::unique_ptr<Process> process_;
};

class ProcessShells final : public ShellMaker {
 public:
  explicit ProcessShells(Spawner spawner) : processes_(std::make_shared<Processes>(std::move(spawner))) {}

  Result<std::unique_ptr<MachineShell>> make(std::uint32_t vcpu_count, std::uint64_t memory_bytes) override {
    return shell({memory_bytes, vcpu_count}, true);
  }
  Result<std::unique_ptr<MachineShell>> order(std::uint32_t vcpu_count, std::uint64_t memory_bytes) override {
    return shell({memory_bytes, vcpu_count}, false);
  }

 private:
  Result<std::unique_ptr<MachineShell>> shell(const ShellShape& shape, bool ready) {
    auto process = processes_->order(shape);
    if (!process) return std::move(process).error();
    auto shell = std::make_unique<RemoteShell>(std::move(*process), shape, processes_);
    if (ready) CUBE_TRY(shell->wait_ready());
    return std::unique_ptr<MachineShell>(std::move(shell));
  }

  const std::shared_ptr<Processes> processes_;
};

}  // namespace

Result<std::shared_ptr<ShellMaker>> shells_in_processes(int kvm_fd) {
  const auto host = examine_host(kvm_fd);
  if (!host) return host.error();
  auto spawner = Spawner::start(kvm_fd, *host);
  if (!spawner) return std::move(spawner).error();
  return std::shared_ptr<ShellMaker>(std::make_shared<ProcessShells>(std::move(*spawner)));
}

}  // namespace cube::vmm
