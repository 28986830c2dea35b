#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "table.hpp"
#include "tables.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

constexpr std::size_t edge = 50;  // the first and the last so many are compared

std::uint64_t available_kib() {
  const auto text = read_file("/proc/meminfo", 64 << 10);
  if (!text) return 0;
  return std::strtoull(text->c_str() + text->find("MemAvailable:") + 13, nullptr, 10);
}

/// Processor time of the host since it started, in ticks: all of it, and what nobody wanted.
struct ProcessorTime {
  std::uint64_t all = 0, idle = 0;
};

ProcessorTime processor_time() {
  ProcessorTime time;
  const auto text = read_file("/proc/stat", 1 << 20);
  if (!text) return time;
  std::istringstream fields(text->substr(0, text->find('\n')));
  std::string name;
  fields >> name;
  std::uint64_t ticks = 0;
  for (int i = 0; i < 8 && fields >> ticks; ++i) {
    time.all += ticks;
    if (i == 3 || i == 4) time.idle += ticks;  // idle, iowait
  }
  return time;
}

/// Of the host's processors, for so long from now on.
double busy_percent(std::chrono::seconds time) {
  asio::io_context loop;
  const ProcessorTime before = processor_time();
  asio::steady_timer(loop, time).wait();
  const ProcessorTime after = processor_time();
  const auto all = static_cast<double>(after.all - before.all);
  return 100 * (1 - static_cast<double>(after.idle - before.idle) / std::max(all, 1.0));
}

/// Guests go on working for some seconds after they were handed out. Waits until the host has been nine
/// tenths idle for two seconds; at most a minute and a half.
void wait_until_quiet() {
  for (int i = 0; i < 45; ++i)
    if (busy_percent(std::chrono::seconds(2)) <= 10) return;
  std::fprintf(stderr, "    the host does not become idle; going on\n");
}

struct Crowd {
  std::vector<Box> boxes;
  std::vector<double> created_ms;
  int failed = 0;
};

awaitable<void> create_many(Target target, DensityOptions options, Crowd& crowd) {
  Session session(target);
  for (int i = 0; i < options.count && available_kib() > options.spare_mib * 1024; ++i) {
    const auto start = Clock::now();
    auto box = co_await session.create(options.template_name);
    if (!box.ok()) {
      complain(box.error());
      ++crowd.failed;
      continue;
    }
    crowd.created_ms.push_back(milliseconds_since(start));
    crowd.boxes.push_back(std::move(*box));
    if (const std::size_t made = crowd.boxes.size(); made % 100 == 0)
      std::fprintf(stderr, "    %zu of %d clones, the last took %.0f ms\n", made, options.count,
                   crowd.created_ms.back());
  }
}

Samples samples_of(std::span<const double> values) {
  Samples samples;
  for (const double value : values) samples.add(value);
  return samples;
}

}  // namespace

void density_table(const Target& target, const DensityOptions& options) {
  // The page cache is filled by a first life.
  Crowd first;
  DensityOptions one = options;
  one.count = 1;
  run_to_end(create_many(target, one, first));
  run_to_end(kill_all(target, first.boxes));

  Crowd crowd;
  wait_until_quiet();
  const std::uint64_t before = available_kib();
  const auto start = Clock::now();
  run_to_end(create_many(target, options, crowd));
  const double seconds = milliseconds_since(start) / 1000;
  wait_until_quiet();
  const std::uint64_t after = available_kib();
  const double busy = busy_percent(std::chrono::seconds(30));
  // What a create costs among many clones, apart from what clones that are still settling take from it.
  Crowd more;
  DensityOptions fifty = options;
  fifty.count = edge;
  run_to_end(create_many(target, fifty, more));

  print_header("density, " + options.template_name + ", idle clones kept");
  const std::span all(crowd.created_ms);
  const std::size_t count = std::min(edge, all.size());
  print_row("create, all", samples_of(all));
  print_row("create, the first " + std::to_string(count), samples_of(all.first(count)));
  print_row("create, the last " + std::to_string(count), samples_of(all.last(count)));
  print_row("create, " + std::to_string(edge) + " more when all are idle", samples_of(more.created_ms));
  std::printf("idle, they keep the host's processors %.1f %% busy\n", busy);
  std::printf("%zu kept, %d failed, %.1f creates/s; marginal memory of each %.2f MiB\n", crowd.boxes.size(),
              crowd.failed + more.failed, static_cast<double>(crowd.boxes.size()) / seconds,
              static_cast<double>(before > after ? before - after : 0) / 1024 /
                  static_cast<double>(std::max<std::size_t>(crowd.boxes.size(), 1)));
  crowd.boxes.insert(crowd.boxes.end(), more.boxes.begin(), more.boxes.end());
  const auto killing = Clock::now();
  const std::size_t killed = crowd.boxes.size();
  run_to_end(kill_all(target, std::move(crowd.boxes)));
  std::printf("destroyed %.1f/s, as one client sees it\n",
              static_cast<double>(killed) / (milliseconds_since(killing) / 1000));
}

}  // namespace cube::bench
