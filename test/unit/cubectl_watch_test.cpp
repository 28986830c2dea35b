// cubectl sandbox logs and metrics, against a server that answers as E2B's API does, in turn.
#include <deque>
#include <mutex>

#include "cubectl_fixture.hpp"

using namespace cube;
using namespace cube::test;

namespace {

struct Answer {
  int status = 200;
  std::string body;
};

/// Answers one request after another with what it was given; the last one for ever.
class Played {
 public:
  explicit Played(std::deque<Answer> answers)
      : answers_(std::move(answers)),
        server_(loop_.get_executor(), [this](http::Exchange& exchange) { return answer(exchange); }),
        port_(must(server_.listen("127.0.0.1", 0))),
        busy_(loop_.get_executor()),
        thread_([this] { loop_.run(); }) {}
  ~Played() {
    asio::post(loop_, [this] { loop_.stop(); });
    thread_.join();
  }

  Ran run(const Words& arguments) {
    const Variables variables{{"E2B_API_URL", "http://127.0.0.1:" + std::to_string(port_)},
                              {"E2B_API_KEY", "k"}};
    const Fd input = nothing();
    return Running(program(arguments), variables, input.get()).finish();
  }

  /// What was asked for.
  std::vector<std::string> targets() {
    const std::lock_guard lock(mutex_);
    return targets_;
  }

 private:
  asio::awaitable<void> answer(http::Exchange& exchange) {
    Answer next;
    {
      const std::lock_guard lock(mutex_);
      targets_.push_back(exchange.request().target);
      next = answers_.front();
      if (answers_.size() > 1) answers_.pop_front();
    }
    http::ResponseHead head;
    head.status = next.status;
    head.headers.add("Content-Type", "application/json");
    const auto sent = co_await exchange.respond(std::move(head), std::move(next.body));
    if (!sent.ok()) co_return;  // cubectl is gone
  }

  asio::io_context loop_{1};
  std::mutex mutex_;
  std::deque<Answer> answers_;
  std::vector<std::string> targets_;
  http::Server server_;
  std::uint16_t port_;
  asio::executor_work_guard<asio::io_context::executor_type> busy_;
  std::thread thread_;
};

std::string entry(const std::string& second, const std::string& level, const std::string& message) {
  return R"({"timestamp":"2026-01-02T03:04:)" + second + R"(Z","level":")" + level + R"(","message":")" +
         message + R"(","fields":{"logger":"agent"}})";
}

std::string logs(const std::string& entries) { return R"({"logs":[],"logEntries":[)" + entries + "]}"; }

std::string metric(const std::string& second, int memory) {
  return R"({"timestamp":"2026-01-02T03:04:)" + second + R"(Z","timestampUnix":17673230)" + second +
         R"(,"cpuCount":2,"cpuUsedPct":12.34,"memUsed":)" + std::to_string(memory) +
         R"(,"memTotal":536870912,"memCache":1024,"diskUsed":1073741824,"diskTotal":2147483648})";
}

const Answer gone{404, R"({"code":404,"message":"sandbox 'box1' not found"})"};

}  // namespace

TEST_CASE("logs are shown from a level on, once or as JSON lines") {
  const std::string some = logs(entry("01", "debug", "tiny") + "," + entry("02", "info", "plain") + "," +
                                entry("03", "error", "bad\\u001b[31m"));
  Played server({{200, some}});
  const Ran plain = server.run({"sandbox", "logs", "box1"});
  CHECK(plain.status == 0);
  CHECK(plain.out == "2026-01-02T03:04:02Z info  plain\n2026-01-02T03:04:03Z error bad?[31m\n");
  CHECK(contains(server.targets().front(), "/sandboxes/box1/logs?start=0&limit="));
  CHECK(contains(server.run({"sandbox", "logs", "box1", "--level", "debug"}).out, "tiny"));
  const Ran json = server.run({"--json", "sandbox", "logs", "box1", "--level", "error"});
  CHECK(json.out == entry("03", "error", "bad\\u001b[31m") + "\n");
  CHECK(server.run({"sandbox", "logs", "box1", "--level", "loud"}).status == 2);
}

TEST_CASE("followed logs come as they are written, each once, until the sandbox ends") {
  Played server({{200, logs(entry("01", "info", "one"))},
                 {200, logs(entry("01", "info", "one") + "," + entry("02", "warn", "two"))},
                 {200, logs(entry("02", "warn", "two"))},
                 gone});
  const Ran ran = server.run({"sandbox", "logs", "--follow", "box1"});
  CHECK(ran.status == 0);
  CHECK(ran.err.empty());
  CHECK(ran.out == "2026-01-02T03:04:01Z info  one\n2026-01-02T03:04:02Z warn  two\n");
  CHECK(contains(server.targets()[1], "start=1767323041000"));

  Played never({gone});
  const Ran unknown = never.run({"sandbox", "logs", "--follow", "box1"});
  CHECK(unknown.status == 1);
  CHECK(unknown.err == "cubectl: sandbox 'box1' not found\n");
}

TEST_CASE("metrics are a table, or JSON lines") {
  Played server({{200, "[" + metric("41", 1048576) + "," + metric("46", 2097152) + "]"}});
  const Ran ran = server.run({"sandbox", "metrics", "box1"});
  CHECK(ran.status == 0);
  CHECK(contains(ran.out, "TIME"));
  CHECK(contains(ran.out, "2026-01-02T03:04:46Z  12.3%     2  2.0 MiB of 512.0 MiB"));
  CHECK(contains(ran.out, "1.0 GiB of 2.0 GiB"));
  CHECK(server.run({"--json", "sandbox", "metrics", "box1"}).out ==
        metric("41", 1048576) + "\n" + metric("46", 2097152) + "\n");
}

TEST_CASE("followed metrics come once each, until the sandbox ends") {
  Played server(
      {{200, "[" + metric("41", 1) + "]"}, {200, "[" + metric("41", 1) + "," + metric("46", 2) + "]"}, gone});
  const Ran ran = server.run({"--json", "sandbox", "metrics", "box1", "--follow"});
  CHECK(ran.status == 0);
  CHECK(ran.out == metric("41", 1) + "\n" + metric("46", 2) + "\n");
  CHECK(contains(server.targets()[1], "start=1767323041"));
}

TEST_CASE("an answer that is no JSON is said to be none") {
  Played server({{200, "<html>"}});
  for (const Words& words :
       {Words{"sandbox", "list"}, Words{"status"}, Words{"sandbox", "metrics", "box1"}}) {
    const Ran ran = server.run(words);
    CHECK(ran.status == 1);
    CHECK(contains(ran.err, "is a cubed daemon listening at that URL?"));
  }
  Played refusing({{500, ""}});
  CHECK(refusing.run({"status"}).err == "cubectl: status 500\n");
}
