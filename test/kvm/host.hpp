// What the tests of the kvm suite share: a host to run machines on, an observer of one, tiny guests.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <cube/vmm.hpp>
#include <mutex>
#include <thread>

namespace cube::vmm::test {

using namespace std::chrono_literals;

inline constexpr auto patience =
    240s;  // a software-emulated KVM interprets a few million instructions a second
inline constexpr std::uint64_t guest_memory_bytes = 64 << 20;

inline Fd open_kvm() {
  auto device = open_file("/dev/kvm", O_RDWR);
  REQUIRE(device.ok());
  REQUIRE(check_kvm(device->get()).ok());
  return std::move(*device);
}

/// Where this run's machines live: with CUBED_MACHINES=process in processes of their own, else in this one.
/// Made once, before there are threads.
inline std::shared_ptr<ShellMaker> shells_of_this_run() {
  static const Fd kvm = open_kvm();
  static const std::shared_ptr<ShellMaker> shells = [] {
    const char* where = std::getenv("CUBED_MACHINES");
    if (where == nullptr || std::string_view(where) != "process") return shells_in_this_process(kvm.get());
    auto started = shells_in_processes(kvm.get());
    if (!started) FAIL(started.error().describe());
    return *started;
  }();
  return shells;
}

/// The executors a machine wants, and shells for it.
struct Host {
  const std::shared_ptr<ShellMaker> shells = shells_of_this_run();
  asio::io_context loop{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{loop.get_executor()};
  asio::thread_pool workers{4};
  std::thread loop_thread{[this] { loop.run(); }};

  Host() = default;
  ~Host() {
    workers.join();
    work.reset();
    loop_thread.join();
  }
  Executors executors() { return {loop.get_executor(), workers.get_executor()}; }
};

/// What a guest said, and why it stopped. A machine may report its end when both are gone.
class Observer {
 public:
  void attach(MachineConfig& config) const {
    config.on_console = [heard = heard_](std::string_view text) {
      const std::scoped_lock lock(heard->mutex);
      heard->console += text;
      heard->changed.notify_all();
    };
    config.on_stop = [heard = heard_](StopReason reason) {
      const std::scoped_lock lock(heard->mutex);
      heard->stop = std::move(reason);
      heard->changed.notify_all();
    };
  }
  bool wait_for_text(std::string_view text) const {
    std::unique_lock lock(heard_->mutex);
    return heard_->changed.wait_for(lock, patience,
                                    [&] { return heard_->console.find(text) != std::string::npos; });
  }
  std::optional<StopReason> wait_for_stop() const {
    std::unique_lock lock(heard_->mutex);
    heard_->changed.wait_for(lock, patience, [&] { return heard_->stop.has_value(); });
    return heard_->stop;
  }
  std::optional<StopReason> stop() const {
    const std::scoped_lock lock(heard_->mutex);
    return heard_->stop;
  }
  std::string console() const {
    const std::scoped_lock lock(heard_->mutex);
    return heard_->console;
  }

 private:
  struct Heard {
    std::mutex mutex;
    std::condition_variable changed;
    std::string console;
    std::optional<StopReason> stop;
  };
  std::shared_ptr<Heard> heard_ = std::make_shared<Heard>();
};

inline int open_guest(const char* name) {
  const char* directory = std::getenv("CUBED_KVM_GUESTS");
  REQUIRE(directory != nullptr);
  const int fd = ::open((std::string(directory) + "/" + name + ".elf").c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  return fd;
}

inline std::unique_ptr<MachineShell> make_shell(Host& host, std::uint32_t vcpu_count = 1) {
  auto shell = host.shells->make(vcpu_count, guest_memory_bytes);
  if (!shell) FAIL(shell.error().describe());
  return std::move(*shell);
}

inline Result<std::unique_ptr<Machine>> boot_in(MachineShell& shell, Host& host, Observer& observer,
                                                const char* guest, MachineConfig config = {}) {
  config.vcpu_count = shell.vcpu_count();
  config.memory_bytes = shell.memory_bytes();
  observer.attach(config);
  const Fd kernel(open_guest(guest));
  return shell.boot(host.executors(), std::move(config), {kernel.get(), ""});
}

inline std::unique_ptr<Machine> boot(Host& host, Observer& observer, const char* guest,
                                     MachineConfig config = {}) {
  const auto shell = make_shell(host, config.vcpu_count);
  auto machine = boot_in(*shell, host, observer, guest, std::move(config));
  if (!machine) FAIL(machine.error().describe());
  return std::move(*machine);
}

inline std::uint64_t number_after(const std::string& console, std::string_view label) {
  const std::size_t at = console.find(label);
  REQUIRE(at != std::string::npos);
  return std::stoull(console.substr(at + label.size()));
}

inline void read_memory(const Machine& machine, std::uint64_t offset, std::span<std::byte> into) {
  const auto memory = machine.memory();
  if (!memory) FAIL(memory.error().describe());
  if (const auto read = (*memory)->read(offset, into); !read) FAIL(read.error().describe());
}

inline std::vector<std::byte> copy_memory(const Machine& machine) {
  std::vector<std::byte> bytes(guest_memory_bytes);
  read_memory(machine, 0, bytes);
  return bytes;
}

inline std::uint64_t word_at(const Machine& machine, std::uint64_t address) {
  std::uint64_t word = 0;
  read_memory(machine, address, std::as_writable_bytes(std::span(&word, 1)));
  return word;
}

/// Fails with the reason if the guest stops first.
template <class Condition>
void wait_until(Observer& observer, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (const auto stop = observer.stop()) FAIL("the guest stopped: " << stop->detail);
    if (std::chrono::steady_clock::now() > deadline) FAIL("the guest makes no progress");
    std::this_thread::yield();
  }
}

/// Waits until a word of guest memory exceeds `value`.
inline void wait_until_above(const Machine& machine, Observer& observer, std::uint64_t address,
                             std::uint64_t value) {
  wait_until(observer, [&] { return word_at(machine, address) > value; });
}

inline Fd memory_image(const Machine& machine) {
  Fd image(::memfd_create("image", MFD_CLOEXEC));
  REQUIRE(write_exactly(image.get(), copy_memory(machine), 0).ok());
  return image;
}

inline Result<std::unique_ptr<Machine>> restore(Host& host, Observer& observer, const MachineState& state,
                                                const MemoryImage& memory, MachineConfig config = {}) {
  config.memory_bytes = guest_memory_bytes;
  observer.attach(config);
  return make_shell(host)->restore(host.executors(), std::move(config), state, memory);
}

inline Result<std::unique_ptr<Machine>> restore(Host& host, Observer& observer, const MachineState& state,
                                                const Fd& image, MachineConfig config = {}) {
  MemoryImage memory;
  memory.base_fd = image.get();
  return restore(host, observer, state, memory, std::move(config));
}

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}
inline std::size_t lines_of(const char* path) {
  const auto text = read_file(path, 64 << 20);
  return static_cast<std::size_t>(std::count(text->begin(), text->end(), '\n'));
}

/// What a machine has left to the loop is there until the loop comes to it.
template <class Count>
bool falls_to(std::size_t most, Count count) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (count() > most)
    if (std::chrono::steady_clock::now() > deadline) return false;
  return true;
}
inline bool mappings_fall_to(std::size_t most) {
  return falls_to(most, [] { return lines_of("/proc/self/maps"); });
}

}  // namespace cube::vmm::test
