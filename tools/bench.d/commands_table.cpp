#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <cstdio>

#include "table.hpp"
#include "tables.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

/// So many shells, one after another, without anything of ours in between but one command to start them.
std::string loop_of(int count) {
  return "i=0; while [ $i -lt " + std::to_string(count) +
         " ]; do /bin/bash -l -c true; i=$((i+1)); done; echo done";
}

awaitable<void> create_boxes(Target target, std::string name, int count, std::vector<Box>& boxes) {
  Session session(target);
  for (int i = 0; i < count; ++i) {
    auto box = co_await session.create(name);
    if (box.ok())
      boxes.push_back(std::move(*box));
    else
      complain(box.error());
  }
}

enum class Trip { command, health };

awaitable<Result<void>> make_trip(Session& session, const Box& box, Trip trip) {
  return trip == Trip::command ? session.run_login(box, "true") : session.health(box);
}

awaitable<void> make_trips(Target target, Box box, Trip trip, int count, Samples& samples) {
  Session session(target);
  for (int i = 0; i < count; ++i) {
    const auto start = Clock::now();
    const auto ran = co_await make_trip(session, box, trip);
    if (ran.ok()) {
      samples.add(milliseconds_since(start));
    } else {
      complain(ran.error());
      samples.fail();
    }
  }
}

/// The guest's own time for one shell: of a long loop of them less a short one.
awaitable<void> own_time(Target target, Box box, int count, double& each_ms) {
  Session session(target);
  double times[2] = {0, 0};
  for (int part = 0; part < 2; ++part) {
    const auto start = Clock::now();
    const auto ran = co_await session.run(box, loop_of(part == 0 ? 1 : 1 + count), true);
    if (!ran.ok()) complain(ran.error());
    times[part] = milliseconds_since(start);
  }
  each_ms = (times[1] - times[0]) / count;
}

}  // namespace

void commands_table(const Target& target, const CommandsOptions& options) {
  std::vector<Box> boxes;
  run_to_end(create_boxes(target, options.template_name, options.sandboxes, boxes));
  if (boxes.empty()) return;
  print_header("commands, " + options.template_name + ", `bash -l -c true` as commands.run starts it");

  Samples warm_up, one, health;
  run_to_end(make_trips(target, boxes.front(), Trip::command, 10, warm_up));
  double own_ms[2] = {0, 0};  // before and after, since machines drift
  run_to_end(own_time(target, boxes.front(), options.rounds / 2, own_ms[0]));
  auto start = Clock::now();
  run_to_end(make_trips(target, boxes.front(), Trip::command, options.rounds, one));
  const double each_ms = milliseconds_since(start) / options.rounds;
  start = Clock::now();
  run_to_end(make_trips(target, boxes.front(), Trip::health, options.rounds, health));
  const double way_ms = milliseconds_since(start) / options.rounds;
  run_to_end(own_time(target, boxes.front(), options.rounds / 2, own_ms[1]));
  const double guest_ms = (own_ms[0] + own_ms[1]) / 2;
  print_row("round trip, one sandbox", one);
  std::printf(
      "%.1f commands/s; the guest's own fork and exec of the same shell takes %.2f ms, a round trip %.2f ms: "
      "%+.1f %%\n",
      1000 / each_ms, guest_ms, each_ms, 100 * (each_ms - guest_ms) / guest_ms);
  print_row("the agent's /health, one sandbox", health);
  std::printf(
      "the way there and back, API, proxy and agent, without a command: %.2f ms, %.1f %% of the guest's "
      "own\n",
      way_ms, 100 * way_ms / guest_ms);

  Samples many;
  asio::io_context loop;
  const int each = std::max(1, options.rounds / options.sandboxes);
  start = Clock::now();
  for (const Box& box : boxes)
    asio::co_spawn(loop, make_trips(target, box, Trip::command, each, many), asio::detached);
  loop.run();
  const double seconds = milliseconds_since(start) / 1000;
  print_row("round trip, " + std::to_string(boxes.size()) + " sandboxes at once", many);
  std::printf("%.1f commands/s on all of them\n", static_cast<double>(many.count()) / seconds);
  run_to_end(kill_all(target, std::move(boxes)));
}

}  // namespace cube::bench
