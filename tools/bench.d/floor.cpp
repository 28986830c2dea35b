// cube-bench-floor: what a restore costs on this host's KVM, beside the bare system calls that it cannot do
// without.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <cstdio>
#include <cstring>
#include <cube/vmm.hpp>
#include <thread>

#include "bare_restore.hpp"
#include "steps.hpp"
#include "touching_guest.hpp"

namespace cube::bench {
namespace {

template <class T>
T must(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "cube-bench-floor: %s\n", result.error().describe().c_str());
  std::exit(1);
}
void must(const Result<void>& result) {
  if (result.ok()) return;
  std::fprintf(stderr, "cube-bench-floor: %s\n", result.error().describe().c_str());
  std::exit(1);
}

struct Options {
  std::uint64_t memory_mib = 512;
  int count = 200;
};

/// The executors a machine wants.
struct Loop {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  asio::thread_pool workers{2};
  std::thread thread{[this] { context.run(); }};
  ~Loop() {
    workers.join();
    work.reset();
    thread.join();
  }
  vmm::Executors executors() { return {context.get_executor(), workers.get_executor()}; }
};

/// A guest that was saved before its first instruction.
struct Saved {
  vmm::MachineState state;
  Fd image{::memfd_create("image", MFD_CLOEXEC)};
};

vmm::MachineConfig shape(unsigned vcpu_count, const Options& options) {
  vmm::MachineConfig config;
  config.vcpu_count = vcpu_count;
  config.memory_bytes = options.memory_mib << 20;
  return config;
}

Saved save(int kvm_fd, Loop& loop, unsigned vcpu_count, const Options& options) {
  Saved saved;
  const Fd kernel = must(TouchingGuest::elf());
  const auto machine =
      must(must(vmm::shells_in_this_process(kvm_fd)->make(vcpu_count, options.memory_mib << 20))
               ->boot(loop.executors(), shape(vcpu_count, options), {kernel.get(), ""}));
  saved.state = must(machine->save());
  std::vector<std::byte> memory(options.memory_mib << 20);
  must(must(machine->memory())->read(0, memory));
  must(write_exactly(saved.image.get(), memory, 0));
  return saved;
}

void print(const char* name, const Samples& samples) {
  std::printf("  %-42s %9.1f %9.1f\n", name, samples.percentile(0.5), samples.percentile(0.95));
}

void print(const char* title, const Steps& steps) {
  std::printf("%-44s %9.1f %9.1f\n", title, steps.total().percentile(0.5), steps.total().percentile(0.95));
  if (steps.steps().size() < 2) return;
  for (const Steps::Step& step : steps.steps()) print(step.name.c_str(), step.samples);
}

/// What restoring costs with shells of one kind.
struct Way {
  std::shared_ptr<vmm::ShellMaker> shells;
  Steps fresh, fresh_end, pooled, pooled_end;

  template <class Restore>
  void run(const vmm::MachineConfig& shape, Restore restore) {
    auto shell = fresh.time("ShellMaker::order",
                            [&] { return must(shells->order(shape.vcpu_count, shape.memory_bytes)); });
    auto machine = fresh.time("MachineShell::restore", [&] { return restore(*shell); });
    fresh.end_round();
    fresh_end.time("~Machine", [&] { machine.reset(); });
    fresh_end.end_round();

    shell = must(shells->make(shape.vcpu_count, shape.memory_bytes));
    machine = pooled.time("MachineShell::restore", [&] { return restore(*shell); });
    pooled.end_round();
    pooled_end.time("~Machine", [&] { machine.reset(); });
    pooled_end.end_round();
  }
};

/// All ways one after another in each round, so that what else the host does hits all alike.
void restores(int kvm_fd, const std::shared_ptr<vmm::ShellMaker>& processes, Loop& loop, unsigned vcpu_count,
              const Options& options) {
  const Saved saved = save(kvm_fd, loop, vcpu_count, options);
  BareRestore bare(kvm_fd, vcpu_count, options.memory_mib << 20, saved.image.get());
  vmm::MemoryImage memory;
  memory.base_fd = saved.image.get();
  const auto restore = [&](vmm::MachineShell& shell) {
    return must(shell.restore(loop.executors(), shape(vcpu_count, options), saved.state, memory));
  };

  Steps floor, floor_end;
  Way inside{vmm::shells_in_this_process(kvm_fd), {}, {}, {}, {}}, apart{processes, {}, {}, {}, {}};
  for (int i = 0; i < options.count; ++i) {
    bare.run(floor, floor_end);
    inside.run(shape(vcpu_count, options), restore);
    apart.run(shape(vcpu_count, options), restore);
  }

  std::printf("\n%u vCPUs, %llu MiB; microseconds %16s %9s\n", vcpu_count,
              static_cast<unsigned long long>(options.memory_mib), "p50", "p95");
  print("(a) the bare system calls of a restore", floor);
  print("(b) restore with a fresh shell", inside.fresh);
  print("(c) restore with a pooled shell", inside.pooled);
  print("(d) (b) in a process of its own", apart.fresh);
  print("(e) (c) in a process of its own", apart.pooled);
  print("destruction after (a)", floor_end);
  print("    after (b)", inside.fresh_end);
  print("    after (c)", inside.pooled_end);
  print("    after (d)", apart.fresh_end);
  print("    after (e)", apart.pooled_end);
  const double bare_time = floor.total().percentile(0.5);
  std::printf("(b) is %.2f times (a), (d) %.2f times\n", inside.fresh.total().percentile(0.5) / bare_time,
              apart.fresh.total().percentile(0.5) / bare_time);
}

/// A counter that KVM keeps of all virtual machines, or nothing.
std::optional<double> kvm_counter(const char* name) {
  const auto text = read_file(std::string("/sys/kernel/debug/kvm/") + name, 64);
  if (!text) return std::nullopt;
  return std::strtod(text->c_str(), nullptr);
}

struct Touched {
  Samples restore, run;
  std::vector<std::pair<const char*, Samples>> counters = {{"exits", {}}, {"pf_taken", {}}, {"pf_fixed", {}}};
};

/// From the first resume until the guest has touched its 1000 pages.
void touch(int kvm_fd, Loop& loop, const Saved& saved, const Options& options,
           std::span<const vmm::PageRun> working_set, Touched& touched) {
  auto shell = must(vmm::shells_in_this_process(kvm_fd)->make(1, options.memory_mib << 20));
  vmm::MemoryImage memory;
  memory.base_fd = saved.image.get();
  memory.working_set = working_set;
  auto start = Clock::now();
  const auto machine = must(shell->restore(loop.executors(), shape(1, options), saved.state, memory));
  touched.restore.add(1000 * milliseconds_since(start));
  const auto done = reinterpret_cast<const volatile std::byte*>(
      must(machine->memory())->regions().front().address + TouchingGuest::done);
  std::vector<std::optional<double>> before;
  for (const auto& [name, _] : touched.counters) before.push_back(kvm_counter(name));
  start = Clock::now();
  must(machine->resume());
  while (*done == std::byte{0}) std::this_thread::yield();
  touched.run.add(1000 * milliseconds_since(start));
  for (std::size_t i = 0; i < before.size(); ++i)
    if (before[i]) touched.counters[i].second.add(*kvm_counter(touched.counters[i].first) - *before[i]);
}

void working_set(int kvm_fd, Loop& loop, const Options& options) {
  Saved saved = save(kvm_fd, loop, 1, options);
  // Every page of the image holds something, as a real guest's do.
  const std::vector<std::byte> content(TouchingGuest::pages * TouchingGuest::stride, std::byte{1});
  must(write_exactly(saved.image.get(), content, TouchingGuest::first_page));
  const auto all = TouchingGuest::working_set();
  Touched without, with;
  for (int i = 0; i < options.count; ++i) {
    touch(kvm_fd, loop, saved, options, {}, without);
    touch(kvm_fd, loop, saved, options, all, with);
  }
  std::printf("\n%-44s %9s %9s %9s %9s\n", "a guest that touches 1000 pages", "without", "", "with",
              "working set");
  const auto row = [](const char* name, const Samples& a, const Samples& b) {
    std::printf("  %-42s %9.1f %9.1f %9.1f %9.1f\n", name, a.percentile(0.5), a.percentile(0.95),
                b.percentile(0.5), b.percentile(0.95));
  };
  row("restore, us: p50, p95", without.restore, with.restore);
  row("resume to the last page, us", without.run, with.run);
  for (std::size_t i = 0; i < without.counters.size(); ++i)
    if (without.counters[i].second.count() > 0)
      row(without.counters[i].first, without.counters[i].second, with.counters[i].second);
}

const char* kind_of_kvm() {
  if (::access("/sys/module/kvm_pvm", F_OK) == 0) return "PVM";
  if (::access("/sys/module/kvm_amd", F_OK) == 0) return "AMD";
  if (::access("/sys/module/kvm_intel", F_OK) == 0) return "Intel";
  return "unknown";
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "cube-bench-floor: what a restore costs on this host's KVM, beside the system calls it is made of"};
  app.add_option("--memory", options.memory_mib, "MiB of guest memory")->capture_default_str();
  app.add_option("--count", options.count, "how often each is done")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const Fd kvm = must(open_file("/dev/kvm", O_RDWR));
  utsname host{};
  ::uname(&host);
  std::printf("Linux %s, KVM: %s, %u processors; p50 and p95 of %d\n", host.release, kind_of_kvm(),
              std::thread::hardware_concurrency(), options.count);
  const auto processes = must(vmm::shells_in_processes(kvm.get()));  // before there are threads
  Loop loop;
  for (const unsigned vcpu_count : {1u, 2u}) restores(kvm.get(), processes, loop, vcpu_count, options);
  working_set(kvm.get(), loop, options);
  return 0;
}

}  // namespace
}  // namespace cube::bench

int main(int argc, char** argv) { return cube::bench::main(argc, argv); }
