// Machines in processes of their own: what those may do, and that their end is nobody else's.
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;

namespace {

/// Those this process has a handle of: `Pid:` in /proc/self/fdinfo (proc_pid_fdinfo(5)).
std::vector<pid_t> machine_processes() {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("Pid:")) found.push_back(std::stoi(line.substr(4)));
  }
  return found;
}

std::map<std::string, std::string> status_of(pid_t process) {
  std::map<std::string, std::string> fields;
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    const std::size_t colon = line.find(':');
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    fields[line.substr(0, colon)] = value == std::string::npos ? "" : line.substr(value);
  }
  return fields;
}

/// Of this process' spawner: "cube-spare" waits for a machine.
std::vector<pid_t> processes_named(std::string_view wanted) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    auto status = status_of(std::stoi(name));
    if (status["Name"] != wanted) continue;
    auto parent = status_of(std::stoi(status["PPid"]));
    if (parent["PPid"] == std::to_string(::getpid())) found.push_back(std::stoi(name));
  }
  return found;
}

/// Kills them and waits for their end.
void kill_all(const std::vector<pid_t>& processes) {
  for (const pid_t process : processes) REQUIRE(::kill(process, SIGKILL) == 0);
  for (const pid_t process : processes)
    while (::kill(process, 0) == 0) std::this_thread::yield();
}

/// A shell that was ordered, and its process, which has begun to make it.
std::pair<std::unique_ptr<MachineShell>, pid_t> order_shell(Host& host) {
  REQUIRE(falls_to(0, [] { return processes_named("cube-machine").size(); }));  // of earlier tests
  auto shell = host.shells->order(1, guest_memory_bytes);
  if (!shell) FAIL(shell.error().describe());
  std::vector<pid_t> found;
  while ((found = processes_named("cube-machine")).empty()) std::this_thread::yield();
  return {std::move(*shell), found.front()};
}

struct Running {
  Observer observer;
  std::unique_ptr<Machine> machine;
  std::uint64_t counter = 0;

  explicit Running(Host& host) : machine(boot(host, observer, "counter")) {
    REQUIRE(machine->resume().ok());
    REQUIRE(observer.wait_for_text("counter at "));
    counter = number_after(observer.console(), "counter at ");
  }
  void check_that_it_counts() {
    wait_until_above(*machine, observer, counter, word_at(*machine, counter) + 1);
  }
};

/// The process of the machine that `make` makes.
template <class Make>
pid_t process_of(Make make) {
  const auto before = machine_processes();
  make();
  for (const pid_t process : machine_processes())
    if (std::ranges::find(before, process) == before.end()) return process;
  FAIL("the machine has no process of its own");
  return -1;
}

}  // namespace

TEST_CASE("a machine's process has no privileges, few system calls, and no file but what it was given",
          "[process]") {
  Host host;
  std::optional<Running> running;
  const pid_t process = process_of([&] { running.emplace(host); });
  auto status = status_of(process);
  CHECK(status["Name"] == "cube-machine");
  CHECK(status["NoNewPrivs"] == "1");
  CHECK(status["Seccomp"] == "2");  // SECCOMP_MODE_FILTER
  CHECK(std::stoull(status["CapEff"], nullptr, 16) == 0);
  CHECK(std::stoull(status["CapPrm"], nullptr, 16) == 0);
  if (::geteuid() == 0) {
    CHECK(status["Uid"].starts_with("65534\t65534\t65534\t65534"));
    CHECK(status["Gid"].starts_with("65534\t65534\t65534\t65534"));
    CHECK(status["Groups"].empty());
  }
  std::ifstream adjustment("/proc/" + std::to_string(process) + "/oom_score_adj");
  int when_memory_ends = 0;
  adjustment >> when_memory_ends;
  CHECK(when_memory_ends == 500);  // before the daemon
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/fd")) {
    if (std::stoi(entry.path().filename()) <= STDERR_FILENO) continue;
    const std::string target = std::filesystem::read_symlink(entry.path());
    const bool expected = target.starts_with("socket:") || target.starts_with("anon_inode:");
    if (!expected) FAIL_CHECK("it has " << target);
  }
}

TEST_CASE("a process that is killed ends its machine and no other", "[process]") {
  Host host;
  Running bystander(host);
  std::optional<Running> victim;
  const pid_t process = process_of([&] { victim.emplace(host); });
  REQUIRE(::kill(process, SIGKILL) == 0);
  const auto stop = victim->observer.wait_for_stop();
  REQUIRE(stop.has_value());
  CHECK(stop->kind == StopReason::Kind::host_error);
  CHECK(stop->detail == "the machine's process ended");
  CHECK(victim->machine->stopped());
  CHECK_FALSE(victim->machine->resume().ok());
  CHECK(victim->machine->pause().error().code == ErrorCode::unavailable);
  CHECK_FALSE(victim->machine->save().ok());
  // KVM's own thread in that process (for huge pages, Linux 6.12) has no files, and may hold the memory
  // longer.
  const auto memory = *victim->machine->memory();
  std::byte any{};
  CHECK(falls_to(0, [&] { return std::size_t{memory->read(0, std::span(&any, 1)).ok()}; }));
  CHECK(memory->read(0, std::span(&any, 1)).error().code == ErrorCode::unavailable);
  bystander.check_that_it_counts();
}

TEST_CASE("a process ends with its shell or machine, before their destructors return", "[process]") {
  Host host;
  std::unique_ptr<MachineShell> shell;
  const pid_t empty = process_of([&] { shell = make_shell(host); });
  REQUIRE(::kill(empty, 0) == 0);
  shell.reset();
  CHECK(::kill(empty, 0) != 0);
  std::optional<Running> running;
  const pid_t busy = process_of([&] { running.emplace(host); });
  running.reset();
  CHECK(::kill(busy, 0) != 0);
}

TEST_CASE("more machines can be wanted at once than there are spare processes", "[process]") {
  Host host;
  std::vector<std::unique_ptr<MachineShell>> shells(16);
  {
    std::vector<std::jthread> makers;
    for (auto& place : shells)
      makers.emplace_back([&] {
        if (auto made = host.shells->make(1, guest_memory_bytes)) place = std::move(*made);
      });
  }
  CHECK(std::ranges::none_of(shells, [](const auto& shell) { return shell == nullptr; }));
}

TEST_CASE("spare processes that were killed are made up for", "[process]") {
  Host host;
  make_shell(host);  // when there is one, there are others
  std::vector<pid_t> killed;
  while ((killed = processes_named("cube-spare")).empty()) std::this_thread::yield();
  kill_all(killed);
  for (int i = 0; i < 8; ++i) CHECK(make_shell(host));
}

TEST_CASE("a process that ends with its order is made up for when the shell is used", "[process]") {
  Host host;
  const auto [shell, process] = order_shell(host);
  kill_all({process});
  Observer observer;
  const auto machine = boot_in(*shell, host, observer, "counter");
  REQUIRE(machine.ok());
  REQUIRE((*machine)->resume().ok());
  CHECK(observer.wait_for_text("counter at "));
}

TEST_CASE("an ordered shell that cannot be made says so to its guest", "[process]") {
  Host host;
  const auto shell = host.shells->order(max_vcpus + 1, guest_memory_bytes);
  REQUIRE(shell.ok());
  Observer observer;
  CHECK(boot_in(**shell, host, observer, "counter").error().code == ErrorCode::invalid_argument);
}

TEST_CASE("a process ends when nobody wants the shell that was ordered", "[process]") {
  Host host;
  auto [shell, process] = order_shell(host);
  shell.reset();
  CHECK(falls_to(0, [&] { return processes_named("cube-machine").size(); }));
}

TEST_CASE("a process that stands still keeps nobody on the loop waiting", "[process]") {
  Host host;
  std::optional<Running> running;
  const pid_t process = process_of([&] { running.emplace(host); });
  REQUIRE(::kill(process, SIGSTOP) == 0);
  CHECK(running->machine->resume().ok());
  running.reset();  // and can be ended
  CHECK(::kill(process, 0) != 0);
}
