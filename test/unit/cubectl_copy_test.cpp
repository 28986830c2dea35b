// cubectl sandbox cp, with a real agent. The sandbox's files are this machine's: each test has two
// directories.
#include <sys/stat.h>

#include <fstream>
#include <random>

#include "cubectl_fixture.hpp"
#include "human.hpp"
#include "progress.hpp"
#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::test;

namespace {

std::string random_bytes(std::size_t size) {
  std::mt19937_64 random(4711);
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i + 8 <= size; i += 8) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

void write(const std::string& path, std::string_view content, mode_t mode = 0644) {
  std::ofstream(path, std::ios::binary) << content;
  REQUIRE(::chmod(path.c_str(), mode) == 0);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

unsigned mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

struct Places {
  TemporaryDirectory here, inside;
  std::string in(const std::string& name = {}) const {
    return "box1:" + inside.path + (name.empty() ? "" : "/" + name);
  }
};

}  // namespace

TEST_CASE("a file of 50 MiB goes in and comes out as it was, empty ones too") {
  const Service service;
  const Places at;
  for (const std::size_t size : {std::size_t{50} << 20, std::size_t{0}}) {
    const std::string bytes = random_bytes(size);
    write(at.here / "there", bytes);
    CHECK(output(service, {"sandbox", "cp", at.here / "there", at.in("copy")}).empty());
    CHECK((content_of(at.inside / "copy") == bytes));
    CHECK(output(service, {"sandbox", "cp", at.in("copy"), at.here / "back"}).empty());
    CHECK((content_of(at.here / "back") == bytes));
  }
}

TEST_CASE("into a directory that is there a copy goes under its own name") {
  const Service service;
  const Places at;
  write(at.here / "a b", "text");
  output(service, {"sandbox", "cp", at.here / "a b", at.in()});
  CHECK(content_of(at.inside / "a b") == "text");
  output(service, {"sandbox", "cp", at.in("a b"), at.here / "new"});
  CHECK(content_of(at.here / "new") == "text");
  std::filesystem::create_directory(at.here / "sub");
  output(service, {"sandbox", "cp", at.in("a b"), at.here / "sub/"});
  CHECK(content_of(at.here / "sub/a b") == "text");
  const Ran missing = run_cubectl(service, {"sandbox", "cp", at.here / "new", at.in("nodir/")});
  CHECK(missing.status == 1);
  CHECK(contains(missing.err, at.inside / "nodir/: there is no such directory"));
  CHECK_FALSE(std::filesystem::exists(at.inside / "nodir"));
}

TEST_CASE("directories go both ways with modes, empty ones included, and links as what they lead to") {
  const Service service;
  const Places at;
  std::filesystem::create_directories(at.here / "tree/deep/er");
  std::filesystem::create_directories(at.here / "tree/empty");
  write(at.here / "tree/run", "#!/bin/sh\n", 0755);
  write(at.here / "tree/deep/er/secret", "s", 0600);
  write(at.here / "tree/ünï", "u");
  std::filesystem::create_symlink("run", at.here / "tree/link");

  output(service, {"sandbox", "cp", at.here / "tree", at.in()});  // into a directory that is there
  CHECK(mode_of(at.inside / "tree/run") == 0755);
  CHECK(mode_of(at.inside / "tree/deep/er/secret") == 0600);
  CHECK(mode_of(at.inside / "tree/ünï") == 0644);
  CHECK(content_of(at.inside / "tree/link") == "#!/bin/sh\n");
  CHECK(std::filesystem::is_directory(at.inside / "tree/empty"));

  output(service, {"sandbox", "cp", at.in("tree"), at.here / "back"});  // as one that is not
  CHECK(mode_of(at.here / "back/run") == 0755);
  CHECK(mode_of(at.here / "back/deep/er/secret") == 0600);
  CHECK(content_of(at.here / "back/ünï") == "u");
  CHECK(content_of(at.here / "back/link") == "#!/bin/sh\n");
  CHECK(std::filesystem::is_directory(at.here / "back/empty"));
}

TEST_CASE("what cannot be copied is named, and the rest is copied") {
  const Service service;
  const Places at;
  std::filesystem::create_directories(at.here / "tree/sub");
  write(at.here / "tree/file", "f");
  std::filesystem::create_directory_symlink("sub", at.here / "tree/loop");
  std::filesystem::create_symlink("nowhere", at.here / "tree/dangling");
  REQUIRE(::mkfifo((at.here / "tree/pipe").c_str(), 0600) == 0);
  const Ran ran = run_cubectl(service, {"--json", "sandbox", "cp", at.here / "tree", at.in("copy")});
  CHECK(ran.status == 1);
  for (const char* name : {"tree/loop", "tree/dangling", "tree/pipe"})
    CHECK(contains(ran.err, "cubectl: skipped " + at.here / name));
  CHECK(ran.out == R"({"files":1,"directories":2,"bytes":1,"skipped":3})"
                   "\n");
  CHECK(content_of(at.inside / "copy/file") == "f");
  CHECK_FALSE(std::filesystem::exists(at.inside / "copy/loop"));
}

TEST_CASE("standard input and output are files too") {
  const Service service;
  const Places at;
  const std::string bytes = random_bytes(1'000'000);
  CHECK(output(service, {"sandbox", "cp", "-", at.in("piped")}, file_with(bytes)).empty());
  CHECK((content_of(at.inside / "piped") == bytes));
  CHECK((output(service, {"sandbox", "cp", at.in("piped"), "-"}) == bytes));
  const Ran nowhere = run_cubectl(service, {"sandbox", "cp", "-", at.in()}, file_with("x"));
  CHECK(nowhere.status == 1);
  CHECK(contains(nowhere.err, "is a directory; name the file to write"));
}

TEST_CASE("a copy goes from one sandbox to another") {
  Service service;
  service.add_sandbox("box2");
  const Places at;
  write(at.inside / "file", "across", 0755);
  output(service, {"sandbox", "cp", at.in("file"), "box2:" + at.here.path});
  CHECK(content_of(at.here / "file") == "across");
  CHECK(mode_of(at.here / "file") == 0755);
}

TEST_CASE("errors name the file, and leave nothing behind") {
  const Service service;
  const Places at;
  write(at.here / "file", "x");
  std::filesystem::create_directory(at.here / "directory");
  const auto refused = [&](const Words& arguments) {
    Words words{"sandbox", "cp"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const Ran ran = run_cubectl(service, words);
    CHECK(ran.status == 1);
    return ran.err;
  };
  CHECK(refused({at.here / "none", at.in()}) == "cubectl: " + at.here / "none: no such file or directory\n");
  CHECK(refused({at.in("none"), at.here.path}) == "cubectl: " + at.in("none: no such file or directory\n"));
  CHECK(contains(refused({at.here / "directory", "box1:" + at.here / "file"}), "no directory"));
  CHECK(contains(refused({at.here / "file", "nosuch:/tmp/x"}), "sandbox 'nosuch' not found"));
  CHECK(contains(refused({at.here / "file", at.here / "other"}), "SANDBOX:PATH"));
  CHECK(contains(refused({at.in("file"), at.in("other")}), "same sandbox"));
  CHECK(contains(refused({at.in(), "-"}), "is a directory"));
  const Ran unwritable = run_cubectl(service, {"sandbox", "cp", at.here / "file", "box1:/proc/nothing/x"});
  CHECK(unwritable.status == 1);
  CHECK(contains(unwritable.err, "box1:/proc/nothing/x: "));
  CHECK(at.inside.names().empty());
}

TEST_CASE("a sandbox that dies in the middle leaves no half file here") {
  Service service;
  const Places at;
  // The agent cannot read on when the file shrinks under it, and drops the connection.
  std::ofstream(at.inside / "large", std::ios::binary).close();
  REQUIRE(::truncate((at.inside / "large").c_str(), std::int64_t{4} << 30) == 0);
  const Fd input = nothing();
  Running running(program({"sandbox", "cp", at.in("large"), at.here / "half"}), environment_of(service),
                  input.get());
  asio::io_context loop;
  run(loop, [&]() -> asio::awaitable<void> {
    co_await eventually([&] {
      std::error_code none;
      return std::filesystem::file_size(at.here / "half", none) > 0 && !none;
    });
  });
  REQUIRE(::truncate((at.inside / "large").c_str(), 0) == 0);
  const Ran ran = running.finish();
  CHECK(ran.status == 1);
  CHECK(contains(ran.err, at.in("large")));
  CHECK(at.here.names().empty());
}

TEST_CASE("progress shows how far and how fast, within the terminal's width") {
  CHECK(cubectl::progress_line("big.iso", 25 << 20, 50 << 20, 10.0 * (1 << 20), 80) ==
        "big.iso  50%  25.0 MiB of 50.0 MiB  10.0 MiB/s");
  CHECK(cubectl::progress_line("standard input", 512, 0, 512, 80) == "standard input  512 B  512 B/s");
  const std::string narrow = cubectl::progress_line("a-very-long-name.tar.gz", 1, 2, 3, 40);
  CHECK(cubectl::display_width(narrow) <= 40);
  CHECK(contains(narrow, "50%"));
}
