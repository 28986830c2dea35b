#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "template/files.hpp"
#include "temporary_directory.hpp"

using namespace cube;
using namespace cube::templates;
using cube::test::TemporaryDirectory;

TEST_CASE("an image is copied byte for byte, and its zeros take no room") {
  const TemporaryDirectory directory;
  const std::string from = directory.path + "/from", to = directory.path + "/to";
  std::string content(8 << 20, '\0');  // zeros that are written, not holes
  content[5] = 'a';
  content[(4 << 20) + 17] = 'b';
  content.back() = 'c';
  REQUIRE(write_file_atomically(from, content).ok());
  const auto bytes = copy_image(from, to, 16 << 20);
  REQUIRE(bytes.ok());
  CHECK(*bytes == 16 << 20);
  const auto copy = read_file(to, 32 << 20);
  REQUIRE(copy.ok());
  CHECK(copy->substr(0, content.size()) == content);
  CHECK(copy->find_first_not_of('\0', content.size()) == std::string::npos);
  struct stat status {};
  REQUIRE(::stat(to.c_str(), &status) == 0);
  CHECK(status.st_blocks * 512 < 1 << 20);
}

TEST_CASE("what is no image is refused with its path, and nothing is overwritten") {
  const TemporaryDirectory directory;
  const std::string to = directory.path + "/to";
  for (const char* from : {"/nonexistent", "/dev/null", "/tmp"}) {
    const auto copied = copy_image(from, to, 0);
    REQUIRE_FALSE(copied.ok());
    CHECK(copied.error().object == from);
    CHECK_FALSE(std::filesystem::exists(to));
  }
  REQUIRE(write_file_atomically(to, "kept").ok());
  CHECK_FALSE(copy_image("/etc/passwd", to, 0).ok());
  CHECK(*read_file(to, 100) == "kept");
}

TEST_CASE("an ext4 file system grows into its image; anything else is refused") {
  const TemporaryDirectory directory;
  const std::string image = directory.path + "/image";
  REQUIRE(std::system(("/usr/sbin/mkfs.ext4 -q -F " + image + " 16M >/dev/null").c_str()) == 0);
  REQUIRE(::truncate(image.c_str(), 64 << 20) == 0);
  REQUIRE(grow_ext4(image).ok());
  REQUIRE(std::system(("/usr/sbin/e2fsck -fn " + image + " >/dev/null 2>&1").c_str()) == 0);
  const std::string blocks =
      "test $(/usr/sbin/dumpe2fs -h " + image +
      " 2>/dev/null | awk '/^Block count/ { b = $3 } /^Block size/ { print b * $3 }') = 67108864";
  CHECK(std::system(blocks.c_str()) == 0);

  const std::string junk = directory.path + "/junk";
  REQUIRE(write_file_atomically(junk, std::string(1 << 20, 'x')).ok());
  CHECK_FALSE(grow_ext4(junk).ok());
}
