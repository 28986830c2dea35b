// cubectl sandbox exec and shell, with a real agent that runs real programs.
#include "cubectl_fixture.hpp"
#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::test;

TEST_CASE("exec has the command's output, apart, and its exit status") {
  const Service service;
  const Ran ran = run_cubectl(service, {"sandbox", "exec", "box1", "--", "echo out; echo err >&2; exit 7"});
  CHECK(ran.out == "out\n");
  CHECK(ran.err == "err\n");
  CHECK(ran.status == 7);
}

TEST_CASE("words of a command arrive as they are, one word is a line for the shell") {
  const Service service;
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "printf", "<%s>", "a b", "it's", "$HOME", "[x]",
                         ""}) == "<a b><it's><$HOME><[x]><>");
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "echo $((6 * 7))"}) == "42\n");
  CHECK(output(service, {"sandbox", "exec", "box1", "echo", "plain"}) == "plain\n");
  CHECK(run_cubectl(service, {"sandbox", "exec", "box1", "echo", "[x]"}).status == 2);
  CHECK(run_cubectl(service, {"sandbox", "exec", "box1"}).status == 1);
}

TEST_CASE("exec runs where and with what it is told") {
  const Service service;
  CHECK(output(service, {"sandbox", "exec", "box1", "-c", "/tmp", "-e", "A=1=2", "--env", "B=x", "--",
                         "echo $PWD $A $B"}) == "/tmp 1=2 x\n");
  const Ran nowhere = run_cubectl(service, {"sandbox", "exec", "box1", "--cwd", "/nowhere", "--", "true"});
  CHECK(nowhere.status == 1);
  CHECK(nowhere.err == "cubectl: cwd '/nowhere' does not exist\n");
  const Ran nobody = run_cubectl(service, {"sandbox", "exec", "box1", "--user", "nosuchuser", "--", "true"});
  CHECK(nobody.status == 1);
  CHECK(contains(nobody.err, "nosuchuser"));
  CHECK(run_cubectl(service, {"sandbox", "exec", "box1", "-e", "novalue", "--", "true"}).status == 2);
}

TEST_CASE("standard input goes to the command, from a file and from a pipe, up to its end") {
  const Service service;
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "cat; echo end"}, file_with("one\ntwo\n")) ==
        "one\ntwo\nend\n");

  std::string large(3'000'000, 'x');
  for (std::size_t i = 0; i < large.size(); i += 1000) large[i] = '\n';
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "cat"}, file_with(large)) == large);

  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const Fd input(ends[0]);
  Fd keys(ends[1]);
  Running running(
      program({"sandbox", "exec", "box1", "--", "while read -r x; do echo got $x; done; echo end"}),
      environment_of(service), input.get());
  for (const std::string word : {"first", "second"}) {
    REQUIRE(::write(keys.get(), (word + "\n").data(), word.size() + 1) > 0);
    running.read_until("got " + word);
  }
  // What we share with others must go on blocking.
  CHECK((::fcntl(input.get(), F_GETFL) & O_NONBLOCK) == 0);
  keys.reset();
  CHECK(running.finish().out == "got first\ngot second\nend\n");
}

TEST_CASE("a command that does not read its input ends all the same") {
  const Service service;
  const std::string large(2'000'000, 'x');
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "exec < /dev/null; echo done"}, file_with(large)) ==
        "done\n");
}

TEST_CASE("much output comes whole, and a reader that leaves ends the command") {
  const Service service;
  const std::string out = output(service, {"sandbox", "exec", "box1", "--", "head -c 20000000 /dev/zero"});
  CHECK(out.size() == 20'000'000);

  const Fd input = nothing();
  Running running(program({"sandbox", "exec", "box1", "--", "echo $$; while :; do echo y; done"}),
                  environment_of(service), input.get());
  running.read_until("y\n");
  const auto pid = static_cast<pid_t>(std::stol(running.out()));
  running.close_output();
  CHECK(running.finish().status == 128 + SIGPIPE);
  asio::io_context loop;
  run(loop, [&]() -> asio::awaitable<void> { co_await eventually([pid] { return ::kill(pid, 0) != 0; }); });
}

TEST_CASE("a command that a signal killed has 128 and its number") {
  const Service service;
  CHECK(run_cubectl(service, {"sandbox", "exec", "box1", "--", "kill -9 $$"}).status == 128 + SIGKILL);
  CHECK(run_cubectl(service, {"sandbox", "exec", "box1", "--", "kill -SEGV $$"}).status == 128 + SIGSEGV);
}

TEST_CASE("Ctrl-C asks the command to end, and a second one makes it") {
  const Service service;
  const Fd input = nothing();
  Running polite(program({"sandbox", "exec", "box1", "--",
                          "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"}),
                 environment_of(service), input.get());
  polite.read_until("ready");
  ::kill(polite.pid(), SIGINT);
  const Ran ended = polite.finish();
  CHECK(ended.out == "ready\nbye\n");
  CHECK(ended.status == 130);

  Running stubborn(program({"sandbox", "exec", "box1", "--",
                            "trap 'echo no' TERM; echo $$ ready; while :; do sleep 0.01; done"}),
                   environment_of(service), input.get());
  stubborn.read_until("ready");
  const auto pid = static_cast<pid_t>(std::stol(stubborn.out()));
  ::kill(stubborn.pid(), SIGINT);
  stubborn.read_until("no\n");
  ::kill(stubborn.pid(), SIGINT);
  CHECK(stubborn.finish().status == 130);
  CHECK(::kill(pid, 0) != 0);
}

TEST_CASE("in the background a command outlives cubectl, which prints its process id") {
  const Service service;
  const TemporaryDirectory directory;
  const std::string go = directory / "go", done = directory / "done";
  const std::string printed =
      output(service, {"sandbox", "exec", "box1", "--background", "--",
                       "until [ -e " + go + " ]; do sleep 0.01; done; touch " + done});
  const auto pid = static_cast<pid_t>(std::stol(printed));
  CHECK(::kill(pid, 0) == 0);
  CHECK_FALSE(std::filesystem::exists(done));
  CHECK(::close(::open(go.c_str(), O_CREAT | O_WRONLY, 0600)) == 0);
  asio::io_context loop;
  run(loop,
      [&]() -> asio::awaitable<void> { co_await eventually([&] { return std::filesystem::exists(done); }); });
}

TEST_CASE("exec tells JSON events, bytes in base64") {
  const Service service;
  const std::string out = output(service, {"--json", "sandbox", "exec", "box1", "--", "printf '\\377a'"});
  CHECK(contains(out, R"({"event":{"start":{"pid":)"));
  CHECK(contains(out, R"({"event":{"data":{"stdout":"/2E="}}})"));
  CHECK(contains(out, R"("exitCode":0)"));
}

TEST_CASE("a sandbox that is not there, or paused, is said or woken") {
  Service service;
  const Ran unknown = run_cubectl(service, {"sandbox", "exec", "nosuch", "--", "true"});
  CHECK(unknown.status == 1);
  CHECK(unknown.err == "cubectl: sandbox 'nosuch' not found\n");
  const Ran invalid = run_cubectl(service, {"sandbox", "exec", "No/Such", "--", "true"});
  CHECK(invalid.status == 1);
  CHECK(contains(invalid.err, "invalid sandbox ID 'No/Such'"));

  output(service, {"sandbox", "pause", "box1"});
  CHECK(output(service, {"sandbox", "exec", "box1", "--", "echo woken"}) == "woken\n");
  CHECK(service.see([](auto& sandboxes, auto&) { return sandboxes.last_timeout->count(); }) == 300);
}

TEST_CASE("a shell on a terminal: keys, size, exit status, and the terminal as before") {
  const Service service;
  OnTerminal terminal(service, {"sandbox", "shell", "box1"});
  terminal.type("stty size; echo $((40+2)) $TERM\n");
  terminal.read_until("30 90");
  terminal.read_until("42 xterm");
  CHECK(terminal.is_raw());

  terminal.type("trap 'stty size' WINCH; echo s''et\n");  // typed, it looks different from what it prints
  terminal.read_until("set\r\n");
  terminal.resize(71, 23);
  terminal.type("\n");
  terminal.read_until("23 71");

  // Told by the program in the foreground: before it is there, Ctrl-C would be for bash.
  terminal.type("sh -c 'echo go\"\"ing; exec sleep 100'\n");
  terminal.read_until("going\r\n");
  terminal.type("\x03");  // Ctrl-C is the remote terminal's
  terminal.type("echo r''c $?\n");
  terminal.read_until("rc 130");
  terminal.type("exit 9\n");
  CHECK(terminal.wait() == 9);
  CHECK(terminal.is_as_before());
}

TEST_CASE("a signal that ends a shell session restores the terminal and ends the shell") {
  const Service service;
  OnTerminal terminal(service, {"sandbox", "shell", "box1"});
  terminal.type("echo p''id=$$ r''eady\n");
  terminal.read_until(" ready");
  const std::string& shown = terminal.shown();
  const auto pid = static_cast<pid_t>(std::stol(shown.substr(shown.find("pid=") + 4)));
  CHECK(terminal.is_raw());
  ::kill(terminal.pid(), SIGTERM);
  CHECK(terminal.wait() == 128 + SIGTERM);
  CHECK(terminal.is_as_before());
  CHECK(::kill(pid, 0) != 0);
}

TEST_CASE("a shell without a sandbox makes one, and kills it at the end") {
  Service service;
  const auto count = [&] {
    return service.see([](auto& sandboxes, auto&) { return sandboxes.infos.size(); });
  };
  OnTerminal terminal(service, {"sandbox", "shell"});
  terminal.read_until("until this shell ends");
  terminal.type("echo $((1+1))ready\n");
  terminal.read_until("2ready");
  CHECK(count() == 2);
  terminal.type("exit\n");
  CHECK(terminal.wait() == 0);
  CHECK(count() == 1);
}

TEST_CASE("exec --tty gives the command a terminal") {
  const Service service;
  OnTerminal terminal(service,
                      {"sandbox", "exec", "-t", "box1", "--", "tty && read -r x && echo got $x && exit 4"});
  terminal.read_until("/dev/pts/");
  terminal.type("hello\r");
  terminal.read_until("got hello");
  CHECK(terminal.wait() == 4);
  CHECK(terminal.is_as_before());
}

TEST_CASE("what needs a terminal says so where there is none") {
  Service service;
  for (const Words& words : {Words{"sandbox", "shell", "box1"}, Words{"sandbox", "shell"},
                             Words{"sandbox", "exec", "--tty", "box1", "--", "true"}}) {
    const Ran ran = run_cubectl(service, words);
    CHECK(ran.status == 1);
    CHECK(contains(ran.err, "no terminal"));
  }
  CHECK(service.see([](auto& sandboxes, auto&) { return sandboxes.infos.size(); }) == 1);
}
