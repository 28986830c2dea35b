// cube-bench: measures a running daemon from beside it and prints one table.
#include <CLI/CLI.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <cstdio>


#include "session.hpp"
#include "statistics.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

void print_row(const char* what, const Samples& samples) {
  std::printf("%-46s %8zu %9.1f %9.1f %9.1f %9.1f %6zu\n", what, samples.count(), samples.percentile(0.5),
              samples.percentile(0.95), samples.percentile(0.99), samples.percentile(1), samples.failures());
  std::fflush(stdout);
}

void complain(const Error& error) { std::fprintf(stderr, "cube-bench: %s\n", error.describe().c_str()); }

/// What one client sees of one sandbox: created, then the first byte of a command's output, then gone.
struct Stages {
  Samples create, first_output, total, kill;
};

awaitable<void> one_life(Target target, std::string name, Stages& stages) {
  Session session(target);
  const auto start = Clock::now();
  const auto box = co_await session.create(name);
  if (!box.ok()) {
    complain(box.error());
    stages.total.fail();
    co_return;
  }
  stages.create.add(milliseconds_since(start));
  const auto created = Clock::now();
  const auto ran = co_await session.run(*box, "echo ready", false);
  if (!ran.ok()) {
    complain(ran.error());
    stages.total.fail();
  } else {
    stages.first_output.add(milliseconds_since(created));
    stages.total.add(milliseconds_since(start));
  }
  const auto killing = Clock::now();
  const auto killed = co_await session.kill(*box);
  if (killed.ok())
    stages.kill.add(milliseconds_since(killing));
  else
    stages.kill.fail();
}

awaitable<void> lives_one_after_another(Target target, std::string name, int count, Stages& stages) {
  for (int i = 0; i < count; ++i) co_await one_life(target, name, stages);
}

/// `clients` at once, each `rounds` lives long.
Stages run_lives(const Target& target, const std::string& name, int clients, int rounds) {
  asio::io_context loop;
  Stages stages;
  for (int i = 0; i < clients; ++i)
    asio::co_spawn(loop, lives_one_after_another(target, name, rounds, stages), asio::detached);
  loop.run();
  return stages;
}

awaitable<void> create_many(Target target, std::string name, int count, std::vector<Box>& boxes,
                            Samples& samples) {
  Session session(target);
  for (int i = 0; i < count; ++i) {
    const auto start = Clock::now();
    auto box = co_await session.create(name);
    if (!box.ok()) {
      complain(box.error());
      samples.fail();
      continue;
    }
    samples.add(milliseconds_since(start));
    boxes.push_back(std::move(*box));
  }
}

awaitable<void> kill_all(Target target, std::vector<Box> boxes) {
  Session session(target);
  for (const Box& box : boxes) {
    const auto killed = co_await session.kill(box);
    if (!killed.ok()) complain(killed.error());
  }
}

void run_to_end(awaitable<void> work) {
  asio::io_context loop;
  asio::co_spawn(loop, std::move(work), asio::detached);
  loop.run();
}

std::uint64_t available_kib() {
  const auto text = read_file("/proc/meminfo", 64 << 10);
  if (!text) return 0;
  return std::strtoull(text->c_str() + text->find("MemAvailable:") + 13, nullptr, 10);
}

/// The host's available memory before and after; the page cache is filled first by one life.
void density(const Target& target, const std::string& name, int count) {
  run_lives(target, name, 1, 1);
  std::vector<Box> boxes;
  Samples samples;
  const std::uint64_t before = available_kib();
  const auto start = Clock::now();
  run_to_end(create_many(target, name, count, boxes, samples));
  const double seconds = milliseconds_since(start) / 1000;
  // Guests go on working for a moment after they were handed out.
  asio::io_context loop;
  asio::steady_timer pause(loop, std::chrono::seconds(3));
  pause.wait();
  const std::uint64_t after = available_kib();
  print_row(("create, one after another, kept: " + name).c_str(), samples);
  std::printf("%-46s %8.2f MiB   (%zu kept, %.1f creates/s)\n", "marginal memory of an idle clone",
              static_cast<double>(before > after ? before - after : 0) / 1024 /
                  static_cast<double>(std::max(boxes.size(), std::size_t{1})),
              boxes.size(), static_cast<double>(boxes.size()) / seconds);
  const auto killing = Clock::now();
  const std::size_t killed = boxes.size();
  run_to_end(kill_all(target, std::move(boxes)));
  std::printf("%-46s %8.1f /s\n", "destroy rate, as one client sees it",
              static_cast<double>(killed) / (milliseconds_since(killing) / 1000));
}

int main(int argc, char** argv) {
  Target target;
  std::string template_name = "base", large;
  int count = 50, clients = 20, kept = 50;
  CLI::App app{"cube-bench: measures a running cubed; tools/bench starts one in the lab"};
  app.add_option("--port", target.port)->capture_default_str();
  app.add_option("--api-key", target.api_key)->envname("E2B_API_KEY");
  app.add_option("--template", template_name)->capture_default_str();
  app.add_option("--large-template", large, "a template like the first with more memory, to compare with");
  app.add_option("--count", count, "sandboxes one after another")->capture_default_str();
  app.add_option("--clients", clients, "sandboxes at once")->capture_default_str();
  app.add_option("--kept", kept, "idle clones for the memory measurement")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::printf("%-46s %8s %9s %9s %9s %9s %6s\n", "milliseconds", "n", "p50", "p95", "p99", "max", "failed");
  const Stages serial = run_lives(target, template_name, 1, count);
  print_row("create", serial.create);
  print_row("first byte of a command's output after create", serial.first_output);
  print_row("request to first output", serial.total);
  print_row("kill", serial.kill);
  if (!large.empty()) print_row(("create: " + large).c_str(), run_lives(target, large, 1, count).create);
  const Stages crowd = run_lives(target, template_name, clients, 1);
  print_row((std::to_string(clients) + " at once: create").c_str(), crowd.create);
  print_row((std::to_string(clients) + " at once: request to first output").c_str(), crowd.total);
  if (kept > 0) density(target, template_name, kept);
  return 0;
}

}  // namespace
}  // namespace cube::bench

int main(int argc, char** argv) { return cube::bench::main(argc, argv); }
