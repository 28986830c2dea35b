// What the daemon asks of the agent on behalf of users: the machine's use, and what happened in it.
#include "agent_client.hpp"
#include "journal.hpp"

using namespace cube;
using namespace cube::agent;
using namespace cube::agent::test;

namespace {

struct Noted {
  std::string level, message;
  Fields fields;
  std::int64_t unix_time_ns = 0;
};

std::vector<Noted> read(const std::string& journal) {
  simdjson::dom::parser parser;
  std::vector<Noted> entries;
  for (const auto entry : simdjson::dom::array(parser.parse(journal)["entries"])) {
    Noted noted;
    noted.level = std::string_view(entry["level"]);
    noted.message = std::string_view(entry["message"]);
    noted.unix_time_ns = std::stoll(std::string(std::string_view(entry["unixTimeNs"])));
    for (const auto& [name, value] : simdjson::dom::object(entry["fields"]))
      noted.fields[std::string(name)] = std::string_view(value);
    entries.push_back(std::move(noted));
  }
  return entries;
}

}  // namespace

TEST_CASE("a journal keeps what comes last, within its bytes") {
  Journal journal(2000);
  for (int i = 0; i < 100; ++i) journal.add("info", "entry " + std::to_string(i), field("a", "b"));
  const auto entries = read(journal.json(0));
  CHECK(journal.bytes() <= 2000);
  REQUIRE(entries.size() > 5);
  CHECK(entries.back().message == "entry 99");
  CHECK(entries.front().message == "entry " + std::to_string(100 - entries.size()));
  CHECK(journal.json(0).size() <= 2000);
}

TEST_CASE("no word of a guest breaks the journal's JSON, and long ones are cut between characters") {
  Journal journal;
  std::string accents(1023, 'x');
  for (int i = 0; i < 1000; ++i) accents += "\u00e9";
  journal.add("info", "m\xff\"\n\0", field("cmd", "\xc3\x28\"\\\x01" + std::string(5000, '\xff')));
  journal.add("info", "m", field("cmd", accents));
  const auto entries = read(journal.json(0));
  REQUIRE(entries.size() == 2);
  CHECK(entries[0].message == "m\ufffd\"\n");
  CHECK(entries[0].fields.at("cmd").starts_with("\ufffd(\"\\\x01\ufffd"));
  CHECK(entries[1].fields.at("cmd") == std::string(1023, 'x') + "…");
}

TEST_CASE("a journal of one entry that is too large is empty") {
  Journal journal(100);
  journal.add("info", std::string(500, 'x'), {});
  CHECK(read(journal.json(0)).empty());
  CHECK(journal.bytes() == 0);
}

TEST_CASE("the daemon learns which programs users started and how they ended, and no secret of theirs") {
  Guest guest;
  std::string all, later;
  guest.run([&]() -> asio::awaitable<void> {
    const std::string members = R"(,"stdin":false,"tag":"t1")";
    std::string request = shell("exit 3", members);
    request.insert(request.find("\"args\""), R"("envs":{"PASSWORD":"hunter2"},)");
    const Story story = co_await guest.start(std::move(request));
    CHECK(story.exit_code == 3);
    co_await guest.start(R"({"process":{"cmd":"/does/not/exist"}})");
    const http::Response answer = co_await guest.request(guest.control_port, "GET", "/journal", "", "");
    CHECK(answer.status == 200);
    all = answer.body;
    std::string since = "/journal?since=" + std::to_string(read(all).at(1).unix_time_ns);
    const http::Response rest = co_await guest.request(guest.control_port, "GET", std::move(since), "", "");
    later = rest.body;
  }());
  const auto entries = read(all);
  REQUIRE(entries.size() == 3);
  CHECK(entries[0].message == "process started");
  CHECK(entries[0].level == "info");
  CHECK(entries[0].fields.at("cmd") == "/bin/bash -c exit 3");
  CHECK(entries[0].fields.at("tag") == "t1");
  CHECK(entries[0].fields.at("user") == user_name_of(::geteuid()));
  CHECK(entries[1].message == "process ended");
  CHECK(entries[1].fields.at("pid") == entries[0].fields.at("pid"));
  CHECK(entries[1].fields.at("status") == "exit status 3");
  CHECK(entries[2].message == "process did not start");
  CHECK(entries[2].level == "error");
  CHECK(entries[2].fields.at("error").find("/does/not/exist") != std::string::npos);
  CHECK(all.find("hunter2") == std::string::npos);
  CHECK(read(later).size() == 2);
}

TEST_CASE("the daemon learns what the machine uses, now and not since it was booted") {
  Guest guest;
  http::Response first, second, bad, users;
  guest.run([&]() -> asio::awaitable<void> {
    first = co_await guest.request(guest.control_port, "GET", "/metrics", "", "");
    second = co_await guest.request(guest.control_port, "GET", "/metrics", "", "");
    bad = co_await guest.request(guest.control_port, "GET", "/journal?since=yesterday", "", "");
    users = co_await guest.get("/journal");
  }());
  CHECK(first.status == 200);
  CHECK(second.status == 200);
  CHECK(JsonObject::parse(first.body).value().integer("mem_total").value() > 0);
  CHECK(bad.status == 400);
  CHECK(users.status == 404);  // envd has no such route: nobody but the daemon asks
}
