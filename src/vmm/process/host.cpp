#include "vmm/process/host.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <cerrno>
#include <limits>
#include <optional>
#include <thread>

#include "vmm/local_shell.hpp"
#include "vmm/own_memory_files.hpp"
#include "vmm/process/channel.hpp"
#include "vmm/process/confinement.hpp"
#include "vmm/process/disk_socket.hpp"
#include "vmm/process/link.hpp"
#include "vmm/process/messages.hpp"
#include "vmm/process/relay.hpp"
#include "vmm/process/sockets.hpp"

namespace cube::vmm {
namespace {

/// The machine's end of the link. It lives as long as the process.
class HostLink {
 public:
  HostLink(const asio::any_io_executor& loop, Fd socket) : socket_(loop, socket.release()) {}

  /// From any thread; waits while the daemon does not listen.
  void tell(Event event, std::string_view content) {
    std::array<iovec, 2> parts = {buffer_of(event), iovec{const_cast<char*>(content.data()), content.size()}};
    while (send_message(socket_.native_handle(), parts) < 0 && errno == EAGAIN)
      wait_writable(socket_.native_handle());
  }

  /// Serves what the daemon asks for.
  asio::awaitable<void> listen(Machine& machine) {
    for (;;) {
      asio::error_code error;
      co_await socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                                  asio::redirect_error(asio::use_awaitable, error));
      if (error) co_return;
      ConnectRequest request{};
      std::vector<Fd> descriptors;
      iovec bytes = buffer_of(request);
      const ssize_t count =
          receive_message(socket_.native_handle(), std::span(&bytes, 1), &descriptors, MSG_DONTWAIT);
      if (count < 0 && errno == EAGAIN) continue;
      if (count != sizeof request) co_return;
      if (request.connection == 0) {
        machine.expect_use();
        continue;
      }
      if (descriptors.size() != 1) co_return;
      relay(socket_.get_executor(), machine, request, std::move(descriptors.front()),
            [this, connection = request.connection] {
              tell(Event::reset, {reinterpret_cast<const char*>(&connection), sizeof connection});
            });
    }
  }

 private:
  asio::posix::stream_descriptor socket_;
};

class Host {
 public:
  Host(Fd kvm, std::shared_ptr<const HostProfile> host)
      : host_(std::move(host)), kvm_(std::move(kvm)), core_(ShellCore::make(kvm_.get(), *host_)) {}

  /// Everything that does not depend on the machine. What fails is the answer to the order.
  void prepare_process() {
    const asio::steady_timer makes_the_reactor(loop_);  // otherwise a guest would wait for it
    ready_ = open_and_confine();
    workers_.emplace(1);
    loop_thread_ = std::thread([this] {
      ::prctl(PR_SET_NAME, "loop");
      loop_.run();
    });
  }

  /// Until the daemon closes the channel.
  void serve(Order order) {
    Channel channel(std::move(order.channel));
    if (!answer_order(channel, order.shape)) return;
    for (;;) {
      auto message = channel.receive(Channel::Descriptors::taken, std::numeric_limits<std::uint32_t>::max());
      if (!message) return;
      const auto result = execute(*message);
      if (static_cast<Call>(message->type) != Call::resume && !answer(channel, result)) return;
    }
  }

 private:
  bool answer_order(Channel& channel, const ShellShape& shape) {
    std::vector<Fd> for_the_daemon;
    const auto made = make_shell(shape, for_the_daemon);
    return answer(channel, made, for_the_daemon);
  }

  static bool answer(Channel& channel, const Result<std::string>& result, std::span<const Fd> with_it = {}) {
    std::vector<int> descriptors;
    for (const Fd& descriptor : with_it) descriptors.push_back(descriptor.get());
    return channel.send(0, encode_answer(result), descriptors).ok();
  }

  Result<std::string> execute(Message& message) {
    const Call call = static_cast<Call>(message.type);
    if (call == Call::boot) return boot_guest(message);
    if (call == Call::restore) return restore_guest(message);
    if (!machine_) return make_error(ErrorCode::internal, "there is no guest in this process yet");
    Machine& machine = *machine_;
    if (call == Call::resume) return resume(machine);
    if (call == Call::settle) return nothing(machine.settle());
    if (call == Call::pause) return nothing(machine.pause());
    if (call == Call::save) {
      auto state = machine.save();
      if (!state) return std::move(state).error();
      return std::move(state->bytes);
    }
    return make_error(ErrorCode::unimplemented, "an unknown call");
  }

  static Result<std::string> nothing(Result<void> result) {
    if (!result) return std::move(result).error();
    return std::string();
  }

  Result<std::string> resume(Machine& machine) {
    auto resumed = machine.resume();
    // The daemon does not wait for an answer; of one that stopped it has heard.
    if (!resumed && !machine.stopped())
      link_->tell(Event::stopped, encode_stop({StopReason::Kind::host_error, resumed.error().describe()}));
    return nothing(std::move(resumed));
  }

  /// The regions of its memory, and what the daemon gets with them.
  Result<std::string> make_shell(const ShellShape& shape, std::vector<Fd>& for_the_daemon) {
    CUBE_TRY(ready_);
    if (!core_) core_ = ShellCore::make(kvm_.get(), *host_);  // what could not be had ahead may be had now
    if (!core_) return core_.error();
    kvm_.reset();
    auto shell = Shell::make(std::move(*core_), static_cast<std::uint32_t>(shape.vcpu_count),
                             shape.memory_bytes, host_);
    if (!shell) return std::move(shell).error();
    for (Fd* descriptor : {&files_.memory, &files_.pagemap, &files_.clear_refs, &handle_})
      for_the_daemon.push_back(std::move(*descriptor));
    shell_ = std::move(*shell);
    std::vector<ProcessMemory::Region> regions;
    for (const auto span : shell_->memory()->spans())
      regions.push_back({reinterpret_cast<std::uintptr_t>(span.data()), span.size()});
    return encode_regions(regions);
  }

  Result<std::string> boot_guest(Message& message) {
    auto config = prepare(message);
    if (!config) return std::move(config).error();
    const auto command_line = decode_boot(message.bytes);
    if (!command_line) return command_line.error();
    if (message.descriptors.size() != 1) return malformed();
    return run(boot(std::move(shell_), executors(), std::move(*config),
                    {message.descriptors.front().get(), *command_line}));
  }

  Result<std::string> restore_guest(Message& message) {
    auto config = prepare(message);
    if (!config) return std::move(config).error();
    const auto request = decode_restore(message.bytes, message.descriptors);
    if (!request) return request.error();
    if (message.descriptors.empty()) return malformed();
    MemoryImage image;
    image.base_fd = message.descriptors.front().get();
    image.runs = request->runs;
    image.working_set = request->working_set;
    image.first_use = request->first_use;
    image.observed = request->observed;
    return run(restore(std::move(shell_), executors(), std::move(*config), request->state, image));
  }

  /// Takes link, disk and tap out of a message that brings a guest.
  Result<MachineConfig> prepare(Message& message) {
    const auto settings = decode_settings(message.bytes);
    if (!settings) return settings.error();
    if (!shell_) return make_error(ErrorCode::internal, "there is no shell for a guest in this process");
    const std::size_t expected = std::size_t{1} + (settings->disk_bytes > 0) + (settings->has_tap != 0);
    if (message.descriptors.size() < expected) return malformed();
    auto next = message.descriptors.begin();
    link_.emplace(loop_.get_executor(), std::move(*next++));
    MachineConfig config;
    config.vcpu_count = shell_->vcpu_count();
    config.memory_bytes = shell_->memory_bytes();
    config.generation_id = settings->generation_id;
    config.new_generation = settings->new_generation != 0;
    if (settings->disk_bytes > 0)
      config.root_disk = make_remote_disk(std::move(*next++), settings->disk_bytes);
    if (settings->has_tap != 0) config.tap = std::move(*next++);
    HostLink& link = *link_;
    if (settings->has_console != 0)
      config.on_console = [&link](std::string_view text) {
        for (; !text.empty(); text.remove_prefix(std::min(text.size(), most_event_bytes)))
          link.tell(Event::console, text.substr(0, most_event_bytes));
      };
    config.on_stop = [&link](StopReason reason) {
      reason.detail.resize(std::min(reason.detail.size(), most_event_bytes / 2));
      link.tell(Event::stopped, encode_stop(reason));
    };
    message.descriptors.erase(message.descriptors.begin(), next);
    return config;
  }

  Executors executors() { return {loop_.get_executor(), workers_->get_executor()}; }

  Result<std::string> run(Result<std::unique_ptr<Machine>> made) {
    if (!made) return std::move(made).error();
    machine_ = std::move(*made);
    asio::co_spawn(loop_, link_->listen(*machine_), asio::detached);
    return std::string();
  }

  static Error malformed() { return make_error(ErrorCode::internal, "a call without its descriptors"); }

  /// Opening what the daemon gets takes privileges.
  Result<void> open_and_confine() {
    auto files = OwnMemoryFiles::open();
    if (!files) return std::move(files).error();
    files_ = std::move(*files);
    handle_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    if (!handle_) return os_error(errno, "pidfd_open failed");
    return confine_process();
  }

  const std::shared_ptr<const HostProfile> host_;
  Fd kvm_;                  ///< until there is a shell
  Result<ShellCore> core_;  ///< until it is part of a shell
  OwnMemoryFiles files_;    ///< until the daemon gets them
  Fd handle_;               ///< a pidfd; likewise
  Result<void> ready_;
  asio::io_context loop_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{loop_.get_executor()};
  std::optional<asio::thread_pool> workers_;
  std::thread loop_thread_;
  std::unique_ptr<Shell> shell_;
  std::optional<HostLink> link_;
  std::unique_ptr<Machine> machine_;
};

/// A host that runs out of memory ends a machine before the daemon, and one with much before one with little.
void go_before_the_daemon() {
  constexpr std::string_view adjustment = "500";  // of 1000; proc_pid_oom_score_adj(5)
  const auto file = open_file("/proc/self/oom_score_adj", O_WRONLY);
  if (!file) return;
  [[maybe_unused]] const ssize_t a_hint = ::write(file->get(), adjustment.data(), adjustment.size());
}

}  // namespace

void host_machine(const std::function<Order()>& take_order, Fd kvm, std::shared_ptr<const HostProfile> host) {
  ::prctl(PR_SET_NAME, "cube-spare");
  ::mallopt(M_ARENA_MAX, 1);  // few allocations, many processes
  go_before_the_daemon();
  Host serving(std::move(kvm), std::move(host));
  serving.prepare_process();
  Order order = take_order();
  ::prctl(PR_SET_NAME, "cube-machine");
  serving.serve(std::move(order));
  ::_exit(0);  // the kernel ends threads and machine, in whatever they are
}

}  // namespace cube::vmm
