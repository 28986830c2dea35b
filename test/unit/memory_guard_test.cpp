// Memory images that lose their file's bytes while they are mapped: SIGBUS becomes a mark on one guest's
// memory.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "virtio_driver.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::virtio::test;

namespace {

constexpr std::uint64_t memory_bytes = 4 << 20;

// Before the first guest memory: a sanitizer's handler would end the process in its own way.
const auto no_earlier_handler = ::signal(SIGBUS, SIG_DFL);

Fd image_of(std::byte fill) {
  Fd image(::memfd_create("image", MFD_CLOEXEC));
  const std::vector<std::byte> bytes(memory_bytes, fill);
  REQUIRE(write_exactly(image.get(), bytes, 0).ok());
  return image;
}

std::shared_ptr<const GuestMemory> memory_from(const Fd& image) {
  auto memory = std::make_shared<GuestMemory>(GuestMemory::map_anonymous(memory_bytes).value());
  MemoryImage layers;
  layers.base_fd = image.get();
  if (!memory->map_image(layers).ok()) return nullptr;
  return memory;
}

std::byte byte_at(const GuestMemory& memory, std::uint64_t address) {
  return *static_cast<volatile std::byte*>(memory.whole().data() + address);
}

/// How a child process ends that does this.
template <class Work>
int exit_status_of(Work work) {
  const pid_t child = ::fork();
  if (child == 0) {
    work();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE("pages that a truncated image lost read as zeros and mark their memory alone") {
  const Fd image = image_of(std::byte{1});
  const Fd other_image = image_of(std::byte{2});
  const auto memory = memory_from(image);
  const auto other = memory_from(other_image);
  memory->whole()[3 << 20] = std::byte{3};  // a page of its own, which truncation takes as well
  REQUIRE(::ftruncate(image.get(), 1 << 20) == 0);
  CHECK(byte_at(*memory, 0) == std::byte{1});
  CHECK_FALSE(memory->damaged());

  CHECK(byte_at(*memory, (2 << 20) + 5) == std::byte{0});
  CHECK(memory->damaged());
  CHECK(byte_at(*memory, 3 << 20) == std::byte{0});
  CHECK(byte_at(*memory, 1 << 20) == std::byte{0});  // below the first page that was touched
  CHECK(byte_at(*memory, 0) == std::byte{1});
  memory->whole()[2 << 20] = std::byte{4};
  CHECK(byte_at(*memory, 2 << 20) == std::byte{4});

  CHECK(byte_at(*other, 2 << 20) == std::byte{2});
  CHECK_FALSE(other->damaged());
}

TEST_CASE("a range that is used again is whole again") {
  for (int round = 0; round < 100; ++round) {
    const Fd image = image_of(std::byte{1});
    const auto memory = memory_from(image);
    REQUIRE_FALSE(memory->damaged());
    REQUIRE(byte_at(*memory, memory_bytes - 1) == std::byte{1});
    REQUIRE(::ftruncate(image.get(), 0) == 0);
    REQUIRE(byte_at(*memory, memory_bytes - 1) == std::byte{0});
    REQUIRE(memory->damaged());
  }
}

TEST_CASE("many threads may find many images damaged at once") {
  std::vector<std::thread> threads;
  std::atomic<int> found = 0;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&found] {
      for (int round = 0; round < 20; ++round) {
        const Fd image(::memfd_create("image", MFD_CLOEXEC));
        if (::ftruncate(image.get(), memory_bytes) != 0) return;
        const auto memory = memory_from(image);
        if (!memory || ::ftruncate(image.get(), 0) != 0) return;
        for (std::uint64_t at = memory_bytes; at > 0; at -= 64 * page_size) byte_at(*memory, at - 1);
        if (memory->damaged()) ++found;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(found == 8 * 20);
}

TEST_CASE("a SIGBUS that is no guest memory's ends the process as ever") {
  const auto guarded = make_memory(memory_bytes);
  const int by_access = exit_status_of([] {
    const int fd = ::memfd_create("other", MFD_CLOEXEC);
    if (::ftruncate(fd, page_size) != 0) ::_exit(1);
    auto* page = static_cast<volatile char*>(::mmap(nullptr, page_size, PROT_READ, MAP_SHARED, fd, 0));
    if (::ftruncate(fd, 0) != 0) ::_exit(1);
    static_cast<void>(page[0]);
  });
  CHECK((WIFSIGNALED(by_access) && WTERMSIG(by_access) == SIGBUS));
  const int sent = exit_status_of([] { ::raise(SIGBUS); });
  CHECK((WIFSIGNALED(sent) && WTERMSIG(sent) == SIGBUS));
}

TEST_CASE("a truncated file is found that nobody touched") {
  const Fd image = image_of(std::byte{1});
  const auto memory = memory_from(image);
  memory->look_for_damage();
  CHECK_FALSE(memory->damaged());
  REQUIRE(::ftruncate(image.get(), memory_bytes - page_size) == 0);
  CHECK_FALSE(memory->damaged());
  memory->look_for_damage();
  CHECK(memory->damaged());
}

TEST_CASE("a device that meets damaged memory ends its machine") {
  // The rings stay whole. The zeros in place of the lost request read as one that the disk can answer.
  const Fd image = image_of(std::byte{0});
  Driver driver(memory_from(image));
  driver.device = virtio::make_block_device(driver.attachment(), driver.context.get_executor(), nullptr);
  driver.start(1);
  driver.rings[0].add({{data_area, 16, false}, {0x8000, 1, true}});
  REQUIRE(::ftruncate(image.get(), data_area) == 0);
  driver.run(0);
  REQUIRE(driver.rings[0].take_used());
  CHECK(driver.errors == 1);
  CHECK(driver.last_error.message == "guest memory is damaged");
}

TEST_CASE("a device whose rings are damaged ends its machine") {
  const Fd image = image_of(std::byte{0});
  Driver driver(memory_from(image));
  driver.device = virtio::make_entropy_device(driver.attachment(), driver.context.get_executor());
  driver.start(1);
  driver.rings[0].add({{data_area, 64, true}});
  driver.run(0);
  REQUIRE(driver.rings[0].take_used());
  REQUIRE(::ftruncate(image.get(), 0) == 0);
  driver.run(0);
  CHECK(driver.errors == 1);
  CHECK(driver.ram.memory()->damaged());
}

TEST_CASE("a copy into damaged memory fails, and is no signal") {
  const Fd image = image_of(std::byte{1});
  const auto memory = memory_from(image);
  REQUIRE(::ftruncate(image.get(), 0) == 0);
  const Fd layer = image_of(std::byte{2});
  const auto copied = read_exactly(layer.get(), memory->whole().first(page_size), 0);
  REQUIRE_FALSE(copied.ok());
  CHECK(copied.error().os_errno == EFAULT);
}
