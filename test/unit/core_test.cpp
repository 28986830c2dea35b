#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <cube/core.hpp>
#include <filesystem>
#include <set>
#include <span>
#include <vector>

#include "temporary_directory.hpp"

using namespace cube;
using cube::test::TemporaryDirectory;

namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return make_error(ErrorCode::invalid_argument, "odd", "number");
  return number / 2;
}

std::string hex(const std::array<std::uint8_t, 32>& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace

TEST_CASE("a result carries a value or an error that names its object") {
  REQUIRE(half(8).value() == 4);
  const auto failed = half(7);
  REQUIRE_FALSE(failed.ok());
  CHECK(failed.error().code == ErrorCode::invalid_argument);
  CHECK(failed.error().describe() == "number: odd");
}

TEST_CASE("an operating-system error keeps errno and says it in words") {
  const Error error = os_error(ENOSPC, "cannot write", "/data/x");
  CHECK(error.code == ErrorCode::resource_exhausted);
  CHECK(error.describe() == "/data/x: cannot write: No space left on device");
}

TEST_CASE("a descriptor is closed when its owner goes") {
  int raw = -1;
  {
    auto file = open_file("/dev/null", O_RDONLY);
    REQUIRE(file.ok());
    raw = file->get();
    REQUIRE(::fcntl(raw, F_GETFD) == FD_CLOEXEC);
  }
  CHECK(::fcntl(raw, F_GETFD) == -1);
}

TEST_CASE("opening a missing file names the path") {
  const auto file = open_file("/nonexistent/file", O_RDONLY);
  REQUIRE_FALSE(file.ok());
  CHECK(file.error().code == ErrorCode::not_found);
  CHECK(file.error().describe().find("/nonexistent/file") == 0);
}

TEST_CASE("a file is replaced atomically and leaves nothing beside it") {
  TemporaryDirectory directory;
  const std::string path = directory.path + "/key";
  REQUIRE(write_file_atomically(path, "one").ok());
  REQUIRE(write_file_atomically(path, "two").ok());
  CHECK(read_file(path, 100).value() == "two");
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path), {}) == 1);
}

TEST_CASE("a failed replacement keeps the old content") {
  TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path + "/busy");
  REQUIRE(write_file_atomically(directory.path + "/busy/inner", "kept").ok());
  CHECK_FALSE(write_file_atomically(directory.path + "/busy", "lost").ok());
  CHECK(read_file(directory.path + "/busy/inner", 100).value() == "kept");
  CHECK(std::distance(std::filesystem::directory_iterator(directory.path), {}) == 1);
}

TEST_CASE("a file over the limit is refused, not truncated") {
  TemporaryDirectory directory;
  REQUIRE(write_file_atomically(directory.path + "/big", std::string(10'000, 'x')).ok());
  CHECK_FALSE(read_file(directory.path + "/big", 9'999).ok());
  CHECK(read_file(directory.path + "/big", 10'000).value().size() == 10'000);
}

TEST_CASE("reading past the end of a file is corrupt, not short") {
  auto file = open_file("/proc/self/status", O_RDONLY);
  std::array<std::byte, 1 << 20> buffer;
  const auto result = read_exactly(file->get(), buffer, 0);
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == ErrorCode::corrupt);
}

TEST_CASE("an interrupted call is repeated, another error is not") {
  int calls = 0;
  const auto fails_once_with = [&](int reason) {
    errno = reason;
    return ++calls == 1 ? -1 : 7;
  };
  CHECK(retry_interrupted([&] { return fails_once_with(EINTR); }) == 7);
  calls = 0;
  CHECK(retry_interrupted([&] { return fails_once_with(EIO); }) == -1);
}

TEST_CASE("a CRC-32C is that of RFC 3720, in pieces, and of zeros without reading them") {
  const std::string digits = "123456789";
  const auto bytes = std::as_bytes(std::span(digits));
  CHECK(crc32c(bytes) == 0xe3069283);
  CHECK(crc32c(bytes.subspan(4), crc32c(bytes.first(4))) == 0xe3069283);
  CHECK(crc32c_of_zeros(32) == 0x8a9136aa);
  for (const std::size_t length : {0, 1, 2, 7, 4096, 100'000}) {
    const std::vector<std::byte> zeros(length);
    CHECK(crc32c_of_zeros(length, crc32c(bytes)) == crc32c(zeros, crc32c(bytes)));
  }
  CHECK(crc32c_of_zeros(1ull << 60) == crc32c_of_zeros(1ull << 59, crc32c_of_zeros(1ull << 59)));
}

TEST_CASE("sandbox ids have E2B's shape, name their node and differ") {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = make_sandbox_id("ab12");
    REQUIRE(is_sandbox_id(id));
    CHECK(node_tag_of(id) == "ab12");
    seen.insert(id);
  }
  CHECK(seen.size() == 1000);
  CHECK_FALSE(is_sandbox_id("i"));
  CHECK_FALSE(is_sandbox_id("iABCDEFGHIJKLMNOPQRST"));
  CHECK_FALSE(is_sandbox_id("xabcdefghijklmnopqrst"));
  CHECK(node_tag_of("../../etc/passwd").empty());
}

TEST_CASE("template names are never paths") {
  CHECK(is_template_name("code-interpreter-v1"));
  for (const char* bad : {"", "..", "a/b", "../x", "A", "a b", "a\n", "a.b"})
    CHECK_FALSE(is_template_name(bad));
  CHECK_FALSE(is_template_name(std::string(129, 'a')));
  CHECK_FALSE(is_template_name(std::string_view("a\0b", 3)));
}

TEST_CASE("the JSON writer nests, separates and escapes") {
  JsonWriter json;
  json.begin_object().key("a").begin_array().value(1).value(true).null().end_array();
  json.key("b\"").value("x\n\x01\\").key("c").value(0.5).end_object();
  CHECK(json.text() == R"({"a":[1,true,null],"b\"":"x\n\u0001\\","c":0.5})");
}

TEST_CASE("bytes that are not UTF-8 are replaced one by one") {
  std::string out;
  append_json_string(out, "é\xff\xc0\xaf\xed\xa0\x80€");
  CHECK(out == "\"é\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd€\"");
}

TEST_CASE("SHA-256 agrees with NIST's examples") {
  CHECK(hex(sha256("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex(sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(sha256(std::string(1'000'000, 'a'))) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
