#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>

#include "table.hpp"
#include "tables.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

/// What one client sees of one sandbox: created, then the first byte of a command's output, then gone.
struct Stages {
  Samples create, total, kill;
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
  const auto ran = co_await session.run(*box, "echo ready", false);
  if (!ran.ok()) {
    complain(ran.error());
    stages.total.fail();
  } else {
    stages.total.add(milliseconds_since(start));
  }
  const auto killing = Clock::now();
  const auto killed = co_await session.kill(*box);
  if (killed.ok())
    stages.kill.add(milliseconds_since(killing));
  else
    stages.kill.fail();
}

/// Every client lives once, all at the same time.
void run_crowd(const Target& target, const std::string& name, int clients, Stages& stages) {
  asio::io_context loop;
  for (int i = 0; i < clients; ++i) asio::co_spawn(loop, one_life(target, name, stages), asio::detached);
  loop.run();
}

/// Demand is what the pool grows with, and without it it shrinks.
void ask(const Target& target, const std::string& name, int clients) {
  Stages ignored;
  run_crowd(target, name, clients, ignored);
}

}  // namespace

void create_table(const Target& target, const CreateOptions& options) {
  print_header("create, " + options.template_name + ", " + options.label);
  for (const int clients : {1, 10, 50}) {
    Stages stages;
    if (options.warm && !waiting_at_least(target, clients)) ask(target, options.template_name, clients);
    for (int round = 0; round * clients < options.samples; ++round) {
      while (options.warm && !wait_for_warm(target, clients)) ask(target, options.template_name, clients);
      run_crowd(target, options.template_name, clients, stages);
    }
    const std::string suffix = ", " + std::to_string(clients) + " at once";
    print_row("create" + suffix, stages.create);
    print_row("request to first output" + suffix, stages.total);
    if (clients == 1) print_row("kill", stages.kill);
  }
}

}  // namespace cube::bench
