#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <cstdio>

#include "table.hpp"
#include "tables.hpp"

namespace cube::bench {
namespace {

struct Churn {
  int left;
  Samples create, kill;
};

/// Creates and destroys as long as there is something left to do.
asio::awaitable<void> client(Target target, std::string name, Churn& churn) {
  Session session(target);
  while (churn.left-- > 0) {
    const auto creating = Clock::now();
    const auto box = co_await session.create(name);
    if (!box.ok()) {
      complain(box.error());
      churn.create.fail();
      continue;
    }
    churn.create.add(milliseconds_since(creating));
    const auto killing = Clock::now();
    const auto killed = co_await session.kill(*box);
    if (killed.ok()) {
      churn.kill.add(milliseconds_since(killing));
    } else {
      complain(killed.error());
      churn.kill.fail();
    }
  }
}

}  // namespace

int churn_table(const Target& target, const ChurnOptions& options) {
  Churn churn{options.count, {}, {}};
  asio::io_context loop;
  const auto start = Clock::now();
  for (int i = 0; i < options.clients; ++i)
    asio::co_spawn(loop, client(target, options.template_name, churn), asio::detached);
  loop.run();
  print_header("churn, " + options.template_name + ", " + std::to_string(options.clients) + " clients");
  print_row("create", churn.create);
  print_row("kill", churn.kill);
  std::printf("%.1f lives/s\n", static_cast<double>(churn.kill.count()) / (milliseconds_since(start) / 1000));
  return churn.create.failures() + churn.kill.failures() == 0 ? 0 : 1;
}

}  // namespace cube::bench
