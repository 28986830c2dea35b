#include "table.hpp"
#include "tables.hpp"

namespace cube::bench {
namespace {

using asio::awaitable;

/// One kind of operation, timed; what fails is said and counted.
awaitable<Result<std::string>> timed(Session& session, Samples& samples, std::string method, std::string path,
                                     std::string body) {
  const auto start = Clock::now();
  auto answer = co_await session.call(std::move(method), std::move(path), std::move(body));
  if (answer.ok()) {
    samples.add(milliseconds_since(start));
  } else {
    complain(answer.error());
    samples.fail();
  }
  co_return answer;
}

std::string of(const Box& box, const char* what) { return "/sandboxes/" + box.id + what; }

/// `mib` of the guest's memory now hold something they did not, and no zeros.
awaitable<void> dirty(Session& session, const Box& box, int mib, std::string file = "dirty") {
  const std::string size = std::to_string(mib) + "M";
  const auto ran = co_await session.run(
      box, "(date; yes $(date +%N)) | head -c " + size + " > /dev/shm/" + file + "; echo done", true);
  if (!ran.ok()) complain(ran.error());
}

awaitable<void> kill(Session& session, const Box& box) {
  const auto killed = co_await session.kill(box);
  if (!killed.ok()) complain(killed.error());
}

struct Row {
  Samples checkpoint, pause, resume, rollback;
};

awaitable<void> measure(Target target, std::string name, int mib, int rounds, Row& row) {
  Session session(target);
  for (int round = 0; round < rounds; ++round) {
    const auto box = co_await session.create(name);
    if (!box.ok()) {
      complain(box.error());
      row.checkpoint.fail();
      continue;
    }
    co_await dirty(session, *box, mib);
    const auto taken = co_await timed(session, row.checkpoint, "POST", of(*box, "/snapshots"), "{}");
    if (taken.ok()) {
      const std::string id = text_member(*taken, "snapshotID");
      co_await dirty(session, *box, mib);
      const auto back = co_await timed(session, row.rollback, "POST", of(*box, "/rollback"),
                                       "{\"snapshotID\":\"" + id + "\"}");
      const auto deleted = co_await session.call("DELETE", "/templates/" + id, "");
      if (!back.ok() || !deleted.ok()) complain(back.ok() ? deleted.error() : back.error());
    }
    co_await dirty(session, *box, mib);
    const auto paused = co_await timed(session, row.pause, "POST", of(*box, "/pause"), "{}");
    if (paused.ok()) {
      const auto resumed =
          co_await timed(session, row.resume, "POST", of(*box, "/connect"), "{\"timeout\":600}");
      if (!resumed.ok()) complain(resumed.error());
    }
    co_await kill(session, *box);
  }
}

/// A sandbox that has written much, and has been captured since.
struct History {
  Samples checkpoint, command;
};

awaitable<void> measure(Target target, std::string name, int rounds, History& row) {
  constexpr int captures_before = 2;
  Session session(target);
  const auto box = co_await session.create(name);
  if (!box.ok()) {
    complain(box.error());
    row.checkpoint.fail();
    co_return;
  }
  co_await dirty(session, *box, 100, "history");
  Samples untimed;
  for (int round = -captures_before; round < rounds; ++round) {
    co_await dirty(session, *box, 1);
    const auto taken =
        co_await timed(session, round < 0 ? untimed : row.checkpoint, "POST", of(*box, "/snapshots"), "{}");
    const auto start = Clock::now();
    const auto ran = co_await session.run(*box, "echo done", true);
    if (ran.ok() && round >= 0) row.command.add(milliseconds_since(start));
    if (!taken.ok()) continue;
    const auto deleted =
        co_await session.call("DELETE", "/templates/" + text_member(*taken, "snapshotID"), "");
    if (!deleted.ok()) complain(deleted.error());
  }
  co_await kill(session, *box);
}

/// Forks into so many, again and again.
struct Forks {
  int count;
  int rounds;
  Box box = {};
  Samples samples = {};
};

awaitable<void> fork(Session& session, Forks& forks, int mib) {
  co_await dirty(session, forks.box, mib);
  const auto forked = co_await timed(session, forks.samples, "POST", of(forks.box, "/fork"),
                                     "{\"timeout\":600,\"count\":" + std::to_string(forks.count) + "}");
  if (!forked.ok()) co_return;
  const auto ids = text_members(*forked, "sandboxID");
  for (const std::string& id : ids) {
    const Box clone{id, ""};
    co_await kill(session, clone);
  }
  if (ids.size() != static_cast<std::size_t>(forks.count)) forks.samples.fail();
}

/// The sizes take turns, so that what else the machine does meets all of them.
awaitable<void> measure(Target target, std::string name, int mib, int rounds, std::vector<Forks>& sizes) {
  Session session(target);
  for (Forks& forks : sizes) {
    auto box = co_await session.create(name);
    if (box.ok()) {
      forks.box = std::move(*box);
      continue;
    }
    complain(box.error());
    forks.samples.fail();
    forks.rounds = 0;
  }
  for (int round = 0; round < rounds; ++round)
    for (Forks& forks : sizes)
      if (round < forks.rounds) co_await fork(session, forks, mib);
  for (const Forks& forks : sizes)
    if (!forks.box.id.empty()) co_await kill(session, forks.box);
}

void print(const std::string& what, const Row& row) {
  print_row("checkpoint, " + what, row.checkpoint);
  print_row("pause, " + what, row.pause);
  print_row("resume, " + what, row.resume);
  print_row("rollback, " + what, row.rollback);
}

}  // namespace

void state_table(const Target& target, const StateOptions& options) {
  print_header("state, " + options.template_name);
  for (const int mib : {1, 7, 100}) {
    Row row;
    run_to_end(measure(target, options.template_name, mib, options.rounds, row));
    print(std::to_string(mib) + " MiB dirty", row);
  }
  if (!options.large_template.empty()) {
    Row row;
    run_to_end(measure(target, options.large_template, 7, options.rounds, row));
    print("7 MiB dirty, " + options.large_template, row);
  }
  History history;
  run_to_end(measure(target, options.template_name, options.rounds, history));
  print_row("checkpoint, 1 MiB dirty after 100", history.checkpoint);
  print_row("a command after that", history.command);
  std::vector<Forks> sizes;
  for (const int count : {1, 10, 100})
    if (count <= options.most_forks) sizes.push_back({count, count == 100 ? 3 : options.rounds});
  run_to_end(measure(target, options.template_name, 7, options.rounds, sizes));
  for (const Forks& forks : sizes)
    print_row("fork into " + std::to_string(forks.count) + ", 7 MiB dirty", forks.samples);
}

}  // namespace cube::bench
