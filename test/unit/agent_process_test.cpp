// The agent as clients see it, with real processes of this machine.
#include <csignal>
#include <filesystem>
#include <fstream>

#include "agent_client.hpp"
#include "init.hpp"
#include "metrics.hpp"
#include "process_io.hpp"
#include "rpc.hpp"
#include "users.hpp"

using namespace cube;
using namespace cube::agent;
using namespace cube::agent::test;
using namespace std::chrono_literals;

namespace {

bool alive(std::int64_t pid) { return ::kill(static_cast<pid_t>(pid), 0) == 0; }

asio::awaitable<void> until(std::function<bool()> condition) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (!condition()) {
    timer.expires_after(std::chrono::milliseconds(5));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace

TEST_CASE("a command's outputs, exit code and events arrive in order") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(shell("echo out; echo err >&2; exit 3"));
    CHECK(story.first_was_start);
    CHECK(story.pid > 1);
    CHECK(story.out == "out\n");
    CHECK(story.err == "err\n");
    CHECK(story.ended);
    CHECK(story.exit_code == 3);
    CHECK(story.exited);
    CHECK(story.status == "exit status 3");
    CHECK(story.error == "exit status 3");
    CHECK(story.trailer == "{}");

    const Story good = co_await guest.start(shell("true"));
    CHECK(good.exit_code == 0);
    CHECK(good.status == "exit status 0");
    CHECK(good.error.empty());
  }(guest));
}

TEST_CASE("a stream's response does not begin before the request's message has come") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    http::ClientConnection slow(
        (co_await http::connect_tcp("127.0.0.1", guest.port, std::chrono::seconds(5))).value());
    http::RequestHead head;
    head.method = "POST";
    head.target = "/process.Process/Start";
    head.headers.add("Host", "guest");
    head.headers.add("Content-Type", "application/connect+json");
    head.headers.add("Transfer-Encoding", "chunked");
    (co_await slow.begin(std::move(head))).ok();
    int status = 0;
    asio::co_spawn(
        guest.loop,
        [](http::ClientConnection& connection, int& status) -> asio::awaitable<void> {
          status = (co_await connection.read_head()).value().status;
        }(slow, status),
        asio::detached);
    // The agent has one thread: with others answered it has dealt with this head, too.
    for (int i = 0; i < 3; ++i) co_await expect_status(guest.get("/health"), 204);
    CHECK(status == 0);

    const std::string message = enveloped(shell("echo late"));
    (co_await slow.write(asio::buffer(message))).ok();
    (co_await slow.finish()).ok();
    co_await until([&] { return status != 0; });
    CHECK(status == 200);
    const auto body = (co_await slow.read_whole_body(1 << 16)).value();
    CHECK(body.find("exit status 0") != std::string::npos);
  }(guest));
}

TEST_CASE("bytes that are not text pass unchanged") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(shell(R"(printf '\377\000\200')"));
    CHECK(story.out == std::string("\377\000\200", 3));
  }(guest));
}

TEST_CASE("a process that a signal ends has no exit code") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(shell("kill -SEGV $$"));
    CHECK(story.exit_code == -1);
    CHECK_FALSE(story.exited);
    CHECK(story.status.starts_with("signal: segmentation fault"));
  }(guest));
}

TEST_CASE("what cannot be started is refused with its reason") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story directory = co_await guest.start(R"({"process":{"cmd":"/bin/true","cwd":"/no/such"}})");
    CHECK(directory.pid == 0);
    CHECK(directory.trailer.find(R"("code":"invalid_argument")") != std::string::npos);
    CHECK(directory.trailer.find("cwd '/no/such' does not exist") != std::string::npos);

    const Story program = co_await guest.start(R"({"process":{"cmd":"no-such-program"}})");
    CHECK(program.trailer.find(R"("code":"invalid_argument")") != std::string::npos);
    CHECK(program.trailer.find("cannot execute 'no-such-program'") != std::string::npos);

    const Story nothing = co_await guest.start("{}");
    CHECK(nothing.trailer.find("process.cmd is missing") != std::string::npos);

    const Story nobody =
        co_await guest.start(shell("true"), field("Authorization", "Basic bm9ib2R5LWVsc2U6"));
    CHECK(nobody.trailer.find(R"("code":"unauthenticated")") != std::string::npos);
    CHECK(nobody.trailer.find("invalid username: 'nobody-else'") != std::string::npos);
  }(guest));
}

TEST_CASE("programs are found in the PATH they will have, and see the requested environment and directory") {
  Guest guest;
  guest.agent->settings().env_vars = {{"FROM_INIT", "1"}, {"BOTH", "init"}};
  guest.agent->settings().sandbox_id = "iabcd0123456789abcdef";
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(
        R"({"process":{"cmd":"sh","args":["-c","echo $FROM_INIT $BOTH $E2B_SANDBOX $E2B_SANDBOX_ID; pwd"],
            "envs":{"BOTH":"request"},"cwd":"/usr/bin"}})");
    CHECK(story.out == "1 request true iabcd0123456789abcdef\n/usr/bin\n");
    const Story hidden = co_await guest.start(R"({"process":{"cmd":"sh","envs":{"PATH":"/nowhere"}}})");
    CHECK(hidden.trailer.find("cannot execute 'sh'") != std::string::npos);
  }(guest));
}

TEST_CASE("a program starts clean: no descriptors, blocked or ignored signals of the agent") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(shell(
        "ls /proc/self/fd | wc -w; grep -E 'Sig(Blk|Ign)' /proc/self/status; cat /proc/self/oom_score_adj"));
    CHECK(story.out == "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n100\n");
  }(guest));
}

TEST_CASE("a program runs as the user of the request") {
  if (::geteuid() != 0) return;  // only root can become others
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(R"({"process":{"cmd":"id","cwd":"/"}})",
                                             field("Authorization", "Basic bm9ib2R5Og=="));
    CHECK(story.out.find("(nobody) gid=") != std::string::npos);
    CHECK(story.out.find("root") == std::string::npos);
  }(guest));
}

TEST_CASE("standard input is written, closed, and refused when there is none") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open(
        "Start",
        shell("trap 'exit 6' TERM; cat; echo closed; while :; do sleep 0.01; done", R"(,"tag":"cat")"));
    co_await stream->step();
    const std::int64_t pid = stream->story.pid;
    const http::Response sent =
        co_await guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"aGVsbG8K"})"));
    CHECK(sent.status == 200);
    CHECK(sent.body == "{}");
    co_await stream->read_until_output("hello\n");
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"pty":"aGVsbG8K"})")), 400);
    co_await expect_status(guest.call("CloseStdin", R"({"process":{"tag":"cat"}})"), 200);
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"aGVsbG8K"})")), 400);
    co_await stream->read_until_output("closed");
    CHECK(stream->story.out == "hello\nclosed\n");
    co_await expect_status(guest.call("SendSignal", selector(pid, R"(,"signal":"SIGNAL_SIGTERM")")), 200);
    co_await stream->read_to_end();
    CHECK(stream->story.exit_code == 6);
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"aGVsbG8K"})")), 404);

    const auto without = co_await guest.open("Start", shell("sleep 100"));
    co_await without->step();
    const auto refused =
        co_await guest.call("SendInput", selector(without->story.pid, R"(,"input":{"stdin":"aGVsbG8K"})"));
    CHECK(refused.status == 400);
    CHECK(refused.body.find("started without stdin") != std::string::npos);
  }(guest));
}

TEST_CASE("input streams to a process") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open("Start", R"({"process":{"cmd":"cat"}})");
    co_await stream->step();
    const std::string messages = enveloped(R"({"start":)" + selector(stream->story.pid) + "}") +
                                 enveloped(R"({"keepalive":{}})") +
                                 enveloped(R"({"data":{"input":{"stdin":"b25l"}}})") +
                                 enveloped(R"({"data":{"input":{"stdin":"dHdv"}}})");
    const auto answer = co_await guest.request(guest.port, "POST", "/process.Process/StreamInput",
                                               "application/connect+json", messages);
    CHECK(answer.status == 200);
    co_await stream->read_until_output("onetwo");
    CHECK(stream->story.out == "onetwo");
  }(guest));
}

TEST_CASE("a terminal has the size asked for, follows resizes, and takes input") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream =
        co_await guest.open("Start", shell("stty size; tty; read line; echo got $line; stty size; echo done",
                                           R"(,"pty":{"size":{"cols":101,"rows":33}})"));
    co_await stream->read_until_output("/dev/pts/");
    CHECK(stream->story.terminal.find("33 101\r\n") != std::string::npos);
    const std::int64_t pid = stream->story.pid;
    co_await expect_status(guest.call("Update", selector(pid, R"(,"pty":{"size":{"cols":77,"rows":22}})")),
                           200);
    co_await expect_status(guest.call("CloseStdin", selector(pid)), 400);
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"pty":"aGVsbG8K"})")), 200);
    co_await stream->read_to_end();
    CHECK(stream->story.terminal.find("got hello") != std::string::npos);
    CHECK(stream->story.terminal.find("22 77\r\n") != std::string::npos);
    CHECK(stream->story.terminal.find("done\r\n") != std::string::npos);
    CHECK(stream->story.exit_code == 0);
    CHECK(stream->story.out.empty());
  }(guest));
}

TEST_CASE("a call ends a little before its client's time is over") {
  CHECK(time_for_call(2000ms) == 1960ms);
  CHECK(time_for_call(60'000ms) == 59'950ms);
  CHECK(time_for_call(9'999'999'999ms) == 9'999'999'949ms);
  CHECK(time_for_call(49ms) == 49ms);
}

TEST_CASE("the timeout of the call kills the process and its group") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream =
        co_await guest.open("Start", shell("sleep 1000 & echo $!; wait"), field("Connect-Timeout-Ms", "300"));
    co_await stream->read_to_end();
    CHECK(stream->story.trailer.find(R"("code":"deadline_exceeded")") != std::string::npos);
    const std::int64_t pid = stream->story.pid;
    co_await until([pid] { return !alive(pid); });

    const auto later = co_await guest.open("Connect", selector(pid));
    co_await later->read_to_end();
    CHECK(later->story.status == "signal: killed");
    CHECK(later->story.error == "signal: killed");
    CHECK(later->story.exit_code == -1);
  }(guest));
}

TEST_CASE("a client that goes away leaves its process running, and another can connect to it") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    std::int64_t pid = 0;
    {
      const auto stream = co_await guest.open(
          "Start",
          R"({"process":{"cmd":"sh","args":["-c","echo first; read a; echo second; read b; exit 7"]},"tag":"job"})");
      co_await stream->read_until_output("first");
      pid = stream->story.pid;
    }
    const auto again = co_await guest.open("Connect", R"({"process":{"tag":"job"}})");
    co_await again->step();
    CHECK(again->story.pid == pid);
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"Cg=="})")), 200);
    co_await again->read_until_output("second");
    CHECK(again->story.out == "second\n");
    const auto list = co_await guest.call("List", "{}");
    CHECK(list.body.find(R"("tag":"job")") != std::string::npos);
    CHECK(list.body.find(R"("pid":)" + std::to_string(pid)) != std::string::npos);
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"Cg=="})")), 200);
    co_await again->read_to_end();
    CHECK(again->story.exit_code == 7);

    const auto none = co_await guest.call("List", "{}");
    CHECK(none.body == R"({"processes":[]})");
    const auto late = co_await guest.open("Connect", selector(pid));
    co_await late->read_to_end();
    CHECK(late->story.first_was_start);
    CHECK(late->story.exit_code == 7);
    const auto unknown = co_await guest.open("Connect", selector(999999999));
    co_await unknown->read_to_end();
    CHECK(unknown->story.trailer.find(R"("code":"not_found")") != std::string::npos);
  }(guest));
}

TEST_CASE("the end waits for whoever still holds the output, unless the process was killed") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto held = co_await guest.open("Start", shell("(read x < <(sleep 0.3); echo late) & echo early"));
    co_await held->read_to_end();
    CHECK(held->story.out == "early\nlate\n");
    CHECK(held->story.exit_code == 0);

    // A daemon in a session of its own is not reached by the signal, and keeps standard output.
    const auto killed = co_await guest.open("Start", shell("setsid sh -c 'echo $$; exec sleep 1000' & wait"));
    co_await killed->read_until_output("\n");
    const auto daemon = std::stoll(killed->story.out);
    co_await expect_status(
        guest.call("SendSignal", selector(killed->story.pid, R"(,"signal":"SIGNAL_SIGKILL")")), 200);
    co_await killed->read_to_end();
    CHECK(killed->story.status == "signal: killed");
    CHECK(alive(daemon));
    ::kill(static_cast<pid_t>(daemon), SIGKILL);
  }(guest));
}

TEST_CASE("signals reach the process; others than two are refused") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open(
        "Start", shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"));
    co_await stream->read_until_output("ready");
    const std::int64_t pid = stream->story.pid;
    co_await expect_status(guest.call("SendSignal", selector(pid, R"(,"signal":"SIGNAL_SIGHUP")")), 501);
    co_await expect_status(guest.call("SendSignal", selector(pid, R"(,"signal":"SIGNAL_SIGTERM")")), 200);
    co_await stream->read_to_end();
    CHECK(stream->story.out == "ready\nbye\n");
    CHECK(stream->story.exit_code == 5);
    co_await expect_status(guest.call("SendSignal", selector(pid, R"(,"signal":"SIGNAL_SIGKILL")")), 404);
  }(guest));
}

TEST_CASE("a quiet stream is kept alive") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const Story story = co_await guest.start(shell("sleep 1.5"), field("Keepalive-Ping-Interval", "1"));
    CHECK(story.keepalives == 1);
    CHECK(story.exit_code == 0);
  }(guest));
}

TEST_CASE("two hundred commands at once all end well") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    constexpr int count = 200;
    auto good = std::make_shared<int>(0);
    auto done = std::make_shared<int>(0);
    for (int i = 0; i < count; ++i)
      asio::co_spawn(
          guest.loop,
          [](Guest& guest, int number, std::shared_ptr<int> good,
             std::shared_ptr<int> done) -> asio::awaitable<void> {
            const Story story = co_await guest.start(R"({"process":{"cmd":"echo","args":[")" +
                                                     std::to_string(number) + R"("]}})");
            *good +=
                story.out == std::to_string(number) + "\n" && story.exit_code == 0 && story.trailer == "{}";
            ++*done;
          }(guest, i, good, done),
          asio::detached);
    co_await until([&] { return *done == count; });
    CHECK(*good == count);
  }(guest));
}

TEST_CASE("a reader that stops makes the process wait, and loses nothing") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const std::string progress =
        (std::filesystem::temp_directory_path() / ("cube-progress-" + random_hex(6))).string();
    const auto stream = co_await guest.open(
        "Start",
        shell("for i in $(seq 300); do head -c 100000 /dev/zero; echo -n . >> " + progress + "; done"));
    co_await stream->step();
    // Not read: the process must come to a stop, well before its 30 MB are through.
    std::uintmax_t before = 0, after = 0;
    asio::steady_timer timer(guest.loop);
    do {
      before = after;
      timer.expires_after(std::chrono::milliseconds(500));
      co_await timer.async_wait(asio::use_awaitable);
      std::error_code missing;
      after = std::filesystem::file_size(progress, missing);
      if (missing) after = 0;
    } while (before != after || after == 0);
    CHECK(after < 150);
    CHECK(alive(stream->story.pid));
    co_await stream->read_to_end();
    CHECK(stream->story.out.size() == 300 * 100000);
    CHECK(stream->story.exit_code == 0);
    std::filesystem::remove(progress);
  }(guest));
}

TEST_CASE("a reader that stops and then vanishes no longer holds up the others") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    auto stalled = co_await guest.open(
        "Start", shell("read go; head -c 30000000 /dev/zero; echo end; exit 2", R"(,"tag":"flood")"));
    co_await stalled->step();
    const std::int64_t pid = stalled->story.pid;
    const auto reader = co_await guest.open("Connect", R"({"process":{"tag":"flood"}})");
    co_await reader->step();
    co_await expect_status(guest.call("SendInput", selector(pid, R"(,"input":{"stdin":"Cg=="})")), 200);
    for (int pieces = 0; pieces < 4; ++pieces) co_await reader->step();
    CHECK(alive(pid));
    stalled.reset();
    co_await reader->read_to_end();
    CHECK(reader->story.out.size() == 30'000'004);
    CHECK(reader->story.exit_code == 2);
  }(guest));
}

TEST_CASE("input for a process that does not read waits up to a bound") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    const auto stream = co_await guest.open("Start", R"({"process":{"cmd":"sleep","args":["1000"]}})");
    co_await stream->step();
    const std::int64_t pid = stream->story.pid;
    const std::string piece = base64_encode(std::string(11 << 20, 'x'));
    auto refused = std::make_shared<int>(0);
    auto ended = std::make_shared<int>(0);
    for (int i = 0; i < 4; ++i)
      asio::co_spawn(
          guest.loop,
          [](Guest& guest, std::string body, std::shared_ptr<int> refused,
             std::shared_ptr<int> ended) -> asio::awaitable<void> {
            const auto answer = co_await guest.call("SendInput", std::move(body));
            if (answer.status == 429) ++*refused;
            ++*ended;
          }(guest, selector(pid, R"(,"input":{"stdin":")" + piece + R"("})"), refused, ended),
          asio::detached);
    co_await until([&] { return *refused == 2; });  // 2 × 11 MiB fit 32 MiB, and the pipe has some of them
    CHECK(*ended == 2);
    co_await expect_status(guest.call("SendSignal", selector(pid, R"(,"signal":"SIGNAL_SIGKILL")")), 200);
    co_await until([&] { return *ended == 4; });  // who waits is told
    CHECK(*refused == 2);
  }(guest));
}

TEST_CASE("a process nobody watches runs on, its output dropped") {
  Guest guest;
  guest.run([](Guest& guest) -> asio::awaitable<void> {
    std::int64_t pid = 0;
    {
      const auto stream = co_await guest.open("Start", shell("echo go; head -c 50000000 /dev/zero; exit 4"));
      co_await stream->read_until_output("go");
      pid = stream->story.pid;
    }
    co_await until([pid] { return !alive(pid); });
    const auto again = co_await guest.open("Connect", selector(pid));
    co_await again->read_to_end();
    CHECK(again->story.exit_code == 4);
  }(guest));
}
