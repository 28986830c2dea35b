// cubectl: what it prints, what it asks of the daemon, how it refuses, what it completes.
#include <sys/ioctl.h>

#include "cubectl_fixture.hpp"
#include "human.hpp"
#include "json.hpp"
#include "log_reader.hpp"
#include "table.hpp"
#include "target.hpp"
#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::test;
using namespace cube::cubectl;

namespace {

JsonDocument parsed(std::string_view text) { return std::move(JsonDocument::parse(text)).value(); }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  return lines;
}

std::vector<std::string> completions(const Service& service, const Words& words) {
  Words all{"__complete", "--"};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<std::string> values;
  for (const std::string& line : lines_of(output(service, all)))
    values.push_back(line.substr(0, line.find('\t')));
  return values;
}

bool has(const std::vector<std::string>& values, const std::string& value) {
  return std::ranges::count(values, value) == 1;
}

}  // namespace

TEST_CASE("URLs are taken apart, and others refused by name") {
  CHECK(parse_url("http://127.0.0.1:3000")->port == 3000);
  CHECK(parse_url("http://localhost/")->port == 80);
  CHECK(parse_url("http://[::1]:81")->host == "::1");
  CHECK(parse_url("http://[::1]:81")->authority == "[::1]:81");
  for (const char* bad : {"", "http://", "http://:3000", "http://a:0", "http://a:65536",
                          "http://a:99999999999", "http://a:x", "http://a:", "http://a/b", "http://a b",
                          "http://u@a", "http://[::1", "http://[::1]x", "127.0.0.1:3000", "https://a"}) {
    INFO(bad);
    const auto address = parse_url(bad);
    REQUIRE_FALSE(address.ok());
    CHECK(address.error().object == bad);
  }
}

TEST_CASE("times are told as distances") {
  const std::int64_t now = 1'767'323'045'678;
  CHECK(parse_date("2026-01-02T03:04:05.678Z") == now);
  CHECK(parse_date("2026-01-02T03:04:05Z") == now - 678);
  CHECK(parse_date("2026-01-02T05:04:05.678123456+02:00") == now);
  for (const char* bad : {"", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z",
                          "2026-01-02T0x:04:05Z", "2026-01-02T03:04:05+2"})
    CHECK_FALSE(parse_date(bad));
  CHECK(time_distance(now, now) == "just now");
  CHECK(time_distance(now - 42'000, now) == "42 s ago");
  CHECK(time_distance(now - 3 * 60'000, now) == "3 min ago");
  CHECK(time_distance(now + 5 * 3600'000, now) == "in 5 h");
  CHECK(time_distance(now - 72 * 3600'000, now) == "3 days ago");
  CHECK(date_distance("never", now) == "never");
  CHECK(byte_size(512) == "512 B");
  CHECK(byte_size(1536) == "1.5 KiB");
  CHECK(byte_size(std::uint64_t{50} << 20) == "50.0 MiB");
}

TEST_CASE("what others wrote cannot command the terminal") {
  CHECK(printable("a\x1b[31mb\r\nc\x7f") == "a?[31mb??c?");
  CHECK(printable("\xc2\x9b"
                  "31m ünï") == "?31m ünï");
}

TEST_CASE("tables are aligned to their content, and cut only for a terminal") {
  using enum Table::Align;
  Table table({{"NAME", left}, {"SIZE", right}, {"NOTE", left}});
  table.add({"ünï", "7", "a rather long note"});
  table.add({"b", "1000", "x\ny"});
  CHECK(table.text(std::nullopt) ==
        "NAME  SIZE  NOTE\n"
        "ünï      7  a rather long note\n"
        "b     1000  x?y\n");
  CHECK(table.text(22) ==
        "NAME  SIZE  NOTE\n"
        "ünï      7  a rather …\n"
        "b     1000  x?y\n");
}

TEST_CASE("each line of a log is read once, also those of one millisecond") {
  LogReader reader;
  const auto entry = [](const char* time, const char* text) {
    return std::string(R"({"timestamp":"2026-01-02T03:04:)") + time + R"(Z","level":"info","message":")" +
           text + R"("})";
  };
  const auto take = [&](const std::string& entries) {
    const JsonDocument document = parsed(R"({"logs":[],"logEntries":[)" + entries + "]}");
    std::string texts;
    for (const LogEntry& one : reader.take(document.root())) texts += one.message;
    return texts;
  };
  CHECK(take(entry("05.001", "a") + "," + entry("05.002", "b") + "," + entry("05.002", "b")) == "abb");
  CHECK(reader.start() == *parse_date("2026-01-02T03:04:05.002Z"));
  CHECK(take(entry("05.002", "b") + "," + entry("05.002", "b") + "," + entry("05.002", "b") + "," +
             entry("05.002", "c")) == "bc");
  CHECK(take(entry("05.002", "b") + "," + entry("05.002", "c") + "," + entry("05.004", "d")) == "d");
  CHECK(take(entry("05.004", "d")) == "");
  CHECK(log_rank("WARNING") > log_rank("info"));
  CHECK(log_rank("error") > log_rank("warn"));
  CHECK(log_rank("debug") < log_rank("anything"));
}

TEST_CASE("create asks for what it is told, and prints the id") {
  Service service;
  const std::string id =
      output(service, {"sandbox", "create", "base", "--timeout", "60", "-e", "A=1", "--env", "B=x=y",
                       "--metadata", "who=me", "--auto-pause", "--auto-resume"});
  CHECK(id == "iaaaaaaaaaaaaaaaaaaab\n");
  const auto request = service.see([](auto& sandboxes, auto&) { return *sandboxes.last_create; });
  CHECK(request.template_ref == "base");
  CHECK(request.timeout == std::chrono::seconds(60));
  CHECK(request.env_vars == Variables{{"A", "1"}, {"B", "x=y"}});
  CHECK(request.metadata == Variables{{"who", "me"}});
  CHECK(request.auto_pause);
  CHECK(request.auto_resume);

  const Ran unknown = run_cubectl(service, {"sandbox", "create", "nosuch"});
  CHECK(unknown.status == 1);
  CHECK(unknown.err == "cubectl: template 'nosuch' not found\n");
}

TEST_CASE("the list follows every page, filters, and is readable and machine-readable") {
  Service service;
  for (int i = 0; i < 250; ++i) service.add_sandbox("many" + std::to_string(i));
  service.see([](auto& sandboxes, auto&) {
    sandboxes.infos[3].metadata = {{"a&b", "c d=é"}};
    sandboxes.infos[3].state = node::SandboxState::paused;
    return 0;
  });
  const auto lines = lines_of(output(service, {"sandbox", "list"}));
  REQUIRE(lines.size() == 252);
  CHECK(contains(lines.front(), "SANDBOX"));
  CHECK(contains(lines.back(), "512 MiB"));

  const auto found = parsed(output(service, {"sandbox", "ls", "--json", "--metadata", "a&b=c d=é"}));
  REQUIRE(json_array(found.root()).size() == 1);
  CHECK(json_string(json_array(found.root()).front(), "sandboxID") == "many2");
  CHECK(lines_of(output(service, {"sandbox", "list", "--state", "paused"})).size() == 2);
  CHECK(lines_of(output(service, {"sandbox", "list", "-s", "running"})).size() == 251);
  CHECK(run_cubectl(service, {"sandbox", "list", "--state", "asleep"}).status == 2);
}

TEST_CASE("info tells what there is to know") {
  const Service service;
  const std::string text = output(service, {"sandbox", "info", "box1"});
  CHECK(contains(text, "sandbox    box1\n"));
  CHECK(contains(text, "state      running\n"));
  CHECK(contains(text, "(2026-01-02T03:04:05.678Z)"));
  CHECK(json_string(parsed(output(service, {"sandbox", "info", "box1", "--json"})).root(), "sandboxID") ==
        "box1");
}

TEST_CASE("kill ends those named, and all only if somebody agrees") {
  Service service;
  const auto count = [&] {
    return service.see([](auto& sandboxes, auto&) { return sandboxes.infos.size(); });
  };
  service.add_sandbox("box2");
  service.add_sandbox("box3");
  const Ran some = run_cubectl(service, {"sandbox", "kill", "box1", "nosuch", "box2"});
  CHECK(some.status == 1);
  CHECK(some.err == "cubectl: sandbox 'nosuch' not found\n");
  CHECK(count() == 1);
  CHECK(run_cubectl(service, {"sandbox", "kill"}).status == 1);
  CHECK(run_cubectl(service, {"sandbox", "kill", "--all", "box3"}).status == 2);

  const Ran unasked = run_cubectl(service, {"sandbox", "kill", "--all"});
  CHECK(unasked.status == 1);
  CHECK(contains(unasked.err, "--yes"));
  {
    OnTerminal terminal(service, {"sandbox", "kill", "--all"});
    terminal.read_until("Kill 1 sandboxes? [y/N] ");
    terminal.type("n\n");
    CHECK(terminal.wait() == 1);
  }
  CHECK(count() == 1);
  OnTerminal terminal(service, {"sandbox", "kill", "--all"});
  terminal.read_until("[y/N] ");
  terminal.type("y\n");
  CHECK(terminal.wait() == 0);
  CHECK(count() == 0);
  CHECK(output(service, {"sandbox", "kill", "--all", "--yes"}).empty());
}

TEST_CASE("a sandbox's life: pause, resume, timeout, snapshot, fork, rollback") {
  Service service;
  const auto state = [&] {
    return service.see([](auto& sandboxes, auto&) { return sandboxes.infos[0].state; });
  };
  const auto timeout = [&] {
    return service.see([](auto& sandboxes, auto&) { return sandboxes.last_timeout->count(); });
  };
  CHECK(output(service, {"sandbox", "pause", "box1"}).empty());
  CHECK(state() == node::SandboxState::paused);
  const Ran again = run_cubectl(service, {"sandbox", "pause", "box1"});
  CHECK(again.status == 1);
  CHECK(contains(again.err, "box1"));
  CHECK(output(service, {"--json", "sandbox", "resume", "box1", "--timeout", "77"}) ==
        "{\"sandboxID\":\"box1\",\"state\":\"running\"}\n");
  CHECK(timeout() == 77);
  output(service, {"sandbox", "timeout", "box1", "88"});
  CHECK(timeout() == 88);
  CHECK(run_cubectl(service, {"sandbox", "timeout", "box1", "soon"}).status == 2);

  const std::string snapshot = output(service, {"sandbox", "snapshot", "box1", "--name", "good"});
  CHECK(snapshot.ends_with(":default\n"));
  const std::string list = output(service, {"snapshot", "list"});
  CHECK(contains(list, "good:default"));
  output(service, {"sandbox", "rollback", "box1", "good"});
  CHECK(run_cubectl(service, {"sandbox", "rollback", "box1", "bad"}).status == 1);

  service.see([](auto& sandboxes, auto&) { return sandboxes.fails_at_fork = 1; });
  const Ran forked = run_cubectl(service, {"sandbox", "fork", "box1", "--count", "3"});
  CHECK(forked.out == "f0\nf2\n");
  CHECK(forked.status == 1);
  CHECK(contains(forked.err, "a fork failed"));

  CHECK(output(service, {"snapshot", "delete", "good"}).empty());
  CHECK(run_cubectl(service, {"snapshot", "delete", "good"}).status == 1);
}

TEST_CASE("templates are listed, told, built and deleted") {
  Service service;
  CHECK(contains(output(service, {"template", "list"}), "  base  "));
  CHECK(contains(output(service, {"template", "info", "base"}), "ssssssssssssssssssss"));
  const Ran built =
      run_cubectl(service, {"template", "build", "mine", "--memory", "1024", "--ready-cmd", "true"});
  CHECK(built.status == 0);
  CHECK(built.out == "tttttttttttttttttttt\n");
  CHECK(built.err == "==> copying the image\n==> booting \"it\"\n");
  CHECK(service.see([](auto&, auto& templates) { return templates.last_build->memory_mib; }) == 1024);
  service.see([](auto&, auto& templates) {
    templates.build_error = make_error(ErrorCode::unavailable, "the guest\nsays no");
    return 0;
  });
  const Ran failed = run_cubectl(service, {"template", "build", "worse"});
  CHECK(failed.status == 1);
  CHECK(contains(failed.err, "cubectl: the guest?says no\n"));
  output(service, {"template", "delete", "mine"});
  CHECK(run_cubectl(service, {"template", "delete", "mine"}).err == "cubectl: template 'mine' not found\n");
}

TEST_CASE("status counts") {
  Service service;
  service.see([](auto& sandboxes, auto&) { return sandboxes.current.running = 5; });
  CHECK(contains(output(service, {"status"}), "5 running, 0 paused"));
  CHECK(contains(output(service, {"status", "--json"}), "\"running\":5"));
}

TEST_CASE("a key is found where it may be, and asked for where it is not") {
  const Service service;
  const TemporaryDirectory directory;
  const std::string file = directory / "key";
  REQUIRE(write_file_atomically(file, key + "\n").ok());
  const auto with = [&](Variables variables, Words words) {
    variables.insert({"PATH", "/bin"});
    words.insert(words.begin(), {"sandbox", "info", "box1"});
    const Fd input = nothing();
    return Running(program(words), variables, input.get()).finish();
  };
  CHECK(with({{"CUBED_API_URL", service.url()}, {"CUBED_API_KEY", key}}, {}).status == 0);
  CHECK(with({{"E2B_API_URL", service.url()}, {"CUBED_API_KEY_FILE", file}}, {}).status == 0);
  CHECK(with({{"E2B_API_KEY", "wrong"}, {"E2B_API_URL", "http://127.0.0.1:1"}},
             {"--api-url", service.url(), "--api-key-file", file})
            .status == 0);
  const Ran wrong = with({{"E2B_API_KEY", "wrong"}, {"E2B_API_URL", service.url()}}, {});
  CHECK(wrong.status == 1);
  CHECK(contains(wrong.err, "E2B_API_KEY"));
  CHECK(lines_of(wrong.err).size() == 1);
  const Ran missing = with({{"E2B_API_URL", service.url()}}, {"--api-key-file", directory / "none"});
  CHECK(missing.status == 1);
  CHECK(contains(missing.err, directory / "none"));
}

TEST_CASE("misuse is 2 and says where to read on, failures are 1 and one line") {
  const Service service;
  const Ran typo = run_cubectl(service, {"sandbox", "lists"});
  CHECK(typo.status == 2);
  CHECK(typo.err.starts_with("cubectl: "));
  CHECK(contains(typo.err, "cubectl sandbox --help"));
  CHECK(run_cubectl(service, {}).status == 2);
  CHECK(run_cubectl(service, {"sandbox", "info", "box1", "--nope"}).status == 2);
  CHECK(run_cubectl(service, {"sandbox", "info", "box1", "--", "x"}).status == 2);
  CHECK(run_cubectl(service, {"--help"}).status == 0);
  CHECK(contains(output(service, {"sandbox", "cp", "--help"}), "SANDBOX:PATH"));

  const Ran nobody = run_cubectl(service, {"--api-url", "http://127.0.0.1:1", "status"});
  CHECK(nobody.status == 1);
  CHECK(contains(nobody.err, "cannot reach the daemon at http://127.0.0.1:1"));
  CHECK(contains(nobody.err, "Connection refused"));
  CHECK(lines_of(nobody.err).size() == 1);
}

TEST_CASE("completion offers commands, options, and what the daemon has") {
  Service service;
  service.add_sandbox("box2");
  CHECK(has(completions(service, {""}), "sandbox"));
  CHECK_FALSE(has(completions(service, {""}), "__complete"));
  CHECK(completions(service, {"te"}) == Words{"template"});
  CHECK(has(completions(service, {"sandbox", ""}), "exec"));
  CHECK(has(completions(service, {"sbx", "k"}), "kill"));
  CHECK(completions(service, {"sandbox", "create", "--time"}) == Words{"--timeout"});
  CHECK(has(completions(service, {"sandbox", "create", "--"}), "--json"));
  CHECK(completions(service, {"sandbox", "kill", "box"}) == Words{"box1", "box2"});
  CHECK(completions(service, {"sandbox", "kill", "box1", "box2"}) == Words{"box2"});
  CHECK(completions(service, {"sandbox", "info", "box1", ""}).empty());
  CHECK(completions(service, {"sandbox", "create", "--timeout", "5", ""}) == Words{"base"});
  CHECK(completions(service, {"sandbox", "list", "--state", "r"}) == Words{"running"});
  CHECK(completions(service, {"sandbox", "logs", "box1", "--level", "w"}) == Words{"warn"});
  CHECK(completions(service, {"completion", ""}) == Words{"bash", "zsh"});
  CHECK(completions(service, {"sandbox", "cp", "b"}) == Words{"box1:", "box2:", ":files"});
  CHECK(completions(service, {"--api-url", "http://127.0.0.1:1", "sandbox", "info", ""}).empty());
}

TEST_CASE("the completion script works in bash") {
  const Service service;
  const std::string script = output(service, {"completion", "bash"});
  const std::string directory = std::string(CUBECTL).substr(0, std::string(CUBECTL).rfind('/'));
  const auto complete = [&](const std::string& typed) {
    Variables variables = environment_of(service);
    variables["PATH"] = directory + ":/usr/bin:/bin";
    variables["TYPED"] = typed;
    const std::string ask = script +
                            "\ncompopt() { :; }\nCOMP_LINE=$TYPED COMP_POINT=${#TYPED} _cubectl\n"
                            "printf '%s\\n' \"${COMPREPLY[@]}\"\n";
    const Fd input = nothing();
    const Ran ran = Running({"/bin/bash", "-c", ask}, variables, input.get()).finish();
    CHECK(ran.err.empty());
    return ran.out;
  };
  CHECK(complete("cubectl sandbox ki") == "kill\n");
  CHECK(complete("cubectl sandbox kill ") == "box1\n");
  CHECK(complete("cubectl sandbox create --api-url=x --deta") == "--detach\n");
}
