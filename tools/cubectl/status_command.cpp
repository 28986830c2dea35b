// cubectl status.
#include <cstdio>

#include "command_line.hpp"
#include "json.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

struct NoOptions {};

void print_pool(JsonValue status, const char* name, const char* title) {
  JsonValue pool;
  if (status[name].get(pool) != simdjson::SUCCESS) return;
  std::printf("%-16s %ld of %ld waiting; was there %ld times, was not %ld times\n", title,
              static_cast<long>(json_integer(pool, "waiting")),
              static_cast<long>(json_integer(pool, "wanted")), static_cast<long>(json_integer(pool, "hits")),
              static_cast<long>(json_integer(pool, "misses")));
}

awaitable<Outcome> status(Session& session, const NoOptions&) {
  const auto answer = co_await session.client.request("GET", "/status");
  if (!answer.ok()) co_return answer.error();
  const auto document = JsonDocument::parse(answer->body);
  if (!document.ok()) co_return document.error();
  if (session.json) {
    print_json(document->root());
    co_return 0;
  }
  JsonValue sandboxes;
  if (document->root()["sandboxes"].get(sandboxes) != simdjson::SUCCESS)
    co_return make_error(ErrorCode::unavailable, "the answer is not a cubed daemon's",
                         session.client.target().url);
  std::printf("%-16s %s\n", "daemon", session.client.target().url.c_str());
  std::printf("%-16s %ld running, %ld paused\n", "sandboxes",
              static_cast<long>(json_integer(sandboxes, "running")),
              static_cast<long>(json_integer(sandboxes, "paused")));
  print_pool(document->root(), "warmPool", "warm sandboxes");
  print_pool(document->root(), "shellPool", "machines ready");
  co_return 0;
}

}  // namespace

void add_status_command(CommandLine& line) {
  line.runs(line.app.add_subcommand("status", "how the daemon is doing"), std::make_shared<NoOptions>(),
            status);
}

}  // namespace cube::cubectl
