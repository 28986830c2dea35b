// Restoring into a shell: memory from layers of files, shapes and files that do not fit, nothing left behind.
#include <sys/utsname.h>

#include "host.hpp"

using namespace cube;
using namespace cube::vmm;
using namespace cube::vmm::test;

namespace {

/// A paused guest and its snapshot.
struct Parent {
  Observer observer;
  std::unique_ptr<Machine> machine;
  std::uint64_t watched = 0;  ///< the address of the guest's progress
  MachineState state;
  Fd image;

  Parent(Host& host, const char* guest, std::string_view label) : machine(boot(host, observer, guest)) {
    REQUIRE(machine->resume().ok());
    REQUIRE(observer.wait_for_text(label));
    watched = number_after(observer.console(), label);
    REQUIRE(machine->pause().ok());
    auto saved = machine->save();
    REQUIRE(saved.ok());
    state = std::move(*saved);
    image = memory_image(*machine);
  }
};

/// A file of pages, each filled with words that name the layer and the page.
class Layer {
 public:
  explicit Layer(std::uint32_t number) : number_(number), file_(::memfd_create("layer", MFD_CLOEXEC)) {}

  /// Appends the pages of a run; its place in the file is not its place in memory.
  MemoryImage::Run add(std::uint64_t memory_offset, std::uint64_t bytes) {
    const MemoryImage::Run run{memory_offset, bytes, file_.get(), end_};
    for (std::uint64_t at = 0; at < bytes; at += page_size) {
      const std::vector<std::uint64_t> words(page_size / 8, word_of(number_, memory_offset + at));
      REQUIRE(write_exactly(file_.get(), std::as_bytes(std::span(words)), end_ + at).ok());
    }
    end_ += bytes;
    return run;
  }

  static std::uint64_t word_of(std::uint32_t layer, std::uint64_t page) {
    return std::uint64_t{layer} << 56 | page;
  }
  const Fd& file() const { return file_; }

 private:
  std::uint32_t number_;
  Fd file_;
  std::uint64_t end_ = 0;
};

Result<std::unique_ptr<Machine>> restore_layers(Host& host, Observer& observer, const Parent& parent,
                                                std::span<const MemoryImage::Run> runs) {
  MemoryImage memory;
  memory.base_fd = parent.image.get();
  memory.runs = runs;
  return restore(host, observer, parent.state, memory);
}

ErrorCode refusal(Host& host, const Parent& parent, std::vector<MemoryImage::Run> runs) {
  Observer observer;
  const auto machine = restore_layers(host, observer, parent, runs);
  REQUIRE_FALSE(machine.ok());
  CHECK_FALSE(machine.error().message.empty());
  return machine.error().code;
}

/// What /proc/self/pagemap says of a page (Documentation/admin-guide/mm/pagemap.rst).
enum class Page { absent, of_file, own };
Page page_at(const Machine& machine, std::uint64_t offset) {
  const auto memory = machine.memory();
  REQUIRE(memory.ok());
  const std::uint64_t address = (*memory)->regions().front().address + offset;
  std::uint64_t entry = 0;
  REQUIRE(read_exactly((*memory)->pagemap_fd(), std::as_writable_bytes(std::span(&entry, 1)),
                       address / page_size * sizeof entry)
              .ok());
  if ((entry >> 63 & 1) == 0) return Page::absent;
  return (entry >> 61 & 1) != 0 ? Page::of_file : Page::own;
}

std::size_t threads() {
  std::size_t count = 0;
  DIR* directory = ::opendir("/proc/self/task");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

constexpr std::uint64_t mib = 1 << 20;

/// With the parent's image as the base.
std::unique_ptr<Machine> restored(Host& host, Observer& observer, const Parent& parent, MemoryImage memory) {
  memory.base_fd = parent.image.get();
  auto machine = restore(host, observer, parent.state, memory);
  if (!machine) FAIL(machine.error().describe());
  return std::move(*machine);
}

}  // namespace

TEST_CASE("memory is the base with the runs of later layers above it, mapped or copied") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  Layer older(1), newer(2);
  // What the snapshot module makes of two layers that overlap: of each page the newest, so the older layer's
  // run at 32 MiB is cut in two. 20 large runs: more than are mapped.
  std::vector<MemoryImage::Run> runs = {older.add(32 * mib, mib),
                                        newer.add(33 * mib, 16 * page_size),
                                        older.add(33 * mib + 16 * page_size, mib),
                                        newer.add(36 * mib, page_size),
                                        newer.add(36 * mib + 2 * page_size, page_size),
                                        older.add(37 * mib, 15 * page_size)};
  for (std::uint64_t i = 0; i < 20; ++i)
    runs.push_back((i % 2 == 0 ? older : newer).add((40 + i) * mib, (20 + i) * page_size));
  Observer observer;
  auto machine = restore_layers(host, observer, parent, runs);
  if (!machine) FAIL(machine.error().describe());

  const auto base = copy_memory(*parent.machine);
  const auto memory = copy_memory(**machine);
  std::size_t next = 0;
  for (std::uint64_t page = 0; page < memory.size(); page += page_size) {
    while (next < runs.size() && page >= runs[next].memory_offset + runs[next].bytes) ++next;
    const bool in_run = next < runs.size() && page >= runs[next].memory_offset;
    if (in_run) {
      const std::uint32_t layer = runs[next].fd == older.file().get() ? 1 : 2;
      const std::vector<std::uint64_t> expected(page_size / 8, Layer::word_of(layer, page));
      if (std::memcmp(memory.data() + page, expected.data(), page_size) != 0)
        FAIL("page " << page << " is not layer " << layer << "'s");
    } else if (std::memcmp(memory.data() + page, base.data() + page, page_size) != 0) {
      FAIL("page " << page << " is not the base's");
    }
  }
  REQUIRE((*machine)->resume().ok());
  wait_until_above(**machine, observer, parent.watched, word_at(*parent.machine, parent.watched));
  CHECK(observer.console().empty());
}

TEST_CASE("a guest finds its own pages in a layer above a base of older ones") {
  Host host;
  Parent parent(host, "memory", "rounds at ");
  // All the guest's pages (below 4 MiB) come from a layer, in small runs that are copied and a large one that
  // is mapped; the base holds garbage there.
  Fd layer(::memfd_create("layer", MFD_CLOEXEC));
  std::vector<MemoryImage::Run> runs;
  for (std::uint64_t at = 0, place = 0; at < 4 * mib; place += runs.back().bytes, at += runs.back().bytes) {
    runs.push_back({at, at < 2 * mib ? 3 * page_size : 2 * mib, layer.get(), place});
    runs.back().bytes = std::min(runs.back().bytes, 4 * mib - at);
    std::vector<std::byte> bytes(runs.back().bytes);
    read_memory(*parent.machine, at, bytes);
    REQUIRE(write_exactly(layer.get(), bytes, place).ok());
  }
  const std::vector<std::byte> garbage(4 * mib, std::byte{0xee});
  REQUIRE(write_exactly(parent.image.get(), garbage, 0).ok());

  Observer observers[2];
  std::unique_ptr<Machine> clones[2];
  for (int i = 0; i < 2; ++i) {
    auto clone = restore_layers(host, observers[i], parent, runs);
    if (!clone) FAIL(clone.error().describe());
    clones[i] = std::move(*clone);
  }
  layer.reset();  // the mappings stay
  const std::uint64_t at_snapshot = word_at(*parent.machine, parent.watched);
  REQUIRE(clones[0]->resume().ok());
  wait_until_above(*clones[0], observers[0], parent.watched, at_snapshot + 1);
  REQUIRE(clones[0]->pause().ok());
  CHECK(word_at(*clones[1], parent.watched) == at_snapshot);
  REQUIRE(clones[1]->resume().ok());
  wait_until_above(*clones[1], observers[1], parent.watched, at_snapshot + 1);
  for (Observer& observer : observers) CHECK(observer.console().empty());
}

TEST_CASE("the working set is present before the guest runs, and a wrong one does no harm") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  Layer layer(1);
  const MemoryImage::Run run = layer.add(20 * mib, 32 * page_size);
  const std::vector<PageRun> working_set = {
      {0, 4 * mib, true},
      {8 * mib, 2 * page_size, false},
      {20 * mib - page_size, 2 * page_size, true},  // across the end of a mapping
      {guest_memory_bytes - page_size, 2 * page_size, true},
      {guest_memory_bytes + mib, page_size, true},
      {UINT64_MAX - page_size + 1, page_size, true},
      {1, 2, true},
  };
  Observer observer;
  MemoryImage memory;
  memory.runs = {&run, 1};
  memory.working_set = working_set;
  const auto machine = restored(host, observer, parent, memory);

  CHECK(page_at(*machine, 0) == Page::own);
  CHECK(page_at(*machine, 4 * mib - page_size) == Page::own);
  CHECK(page_at(*machine, 6 * mib) == Page::absent);
  CHECK(page_at(*machine, 8 * mib) == Page::of_file);
  CHECK(page_at(*machine, 8 * mib + page_size) == Page::of_file);
  CHECK(page_at(*machine, 20 * mib - page_size) == Page::own);
  CHECK(page_at(*machine, 20 * mib) == Page::own);
  CHECK(page_at(*machine, 20 * mib + page_size) == Page::absent);
  CHECK(page_at(*machine, guest_memory_bytes - page_size) == Page::own);
  CHECK(word_at(*machine, 20 * mib) == Layer::word_of(1, 20 * mib));
  REQUIRE(machine->resume().ok());
  wait_until_above(*machine, observer, parent.watched, word_at(*parent.machine, parent.watched) + 1);
  CHECK(observer.console().empty());
}

TEST_CASE("what first use needs is present when it is expected, while the guest runs or before it goes on") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  const bool before_it_runs = GENERATE(false, true);
  const std::vector<PageRun> first_use = {{8 * mib, page_size, false},
                                          {16 * mib, 2 * page_size, true},
                                          {guest_memory_bytes + mib, page_size, true}};
  MemoryImage memory;
  memory.first_use = first_use;
  Observer observer;
  const auto machine = restored(host, observer, parent, memory);
  CHECK(page_at(*machine, 16 * mib) == Page::absent);

  if (before_it_runs) machine->expect_use();
  REQUIRE(machine->resume().ok());
  wait_until_above(*machine, observer, parent.watched, word_at(*parent.machine, parent.watched) + 1);
  if (!before_it_runs) CHECK(page_at(*machine, 16 * mib) == Page::absent);
  if (!before_it_runs) machine->expect_use();
  // Where KVM pre-faults, what is only read comes after all that is written.
  wait_until(observer, [&] {
    return page_at(*machine, 16 * mib + page_size) == Page::own && page_at(*machine, 8 * mib) == Page::of_file;
  });
  CHECK(page_at(*machine, 16 * mib) == Page::own);
  machine->expect_use();
  wait_until_above(*machine, observer, parent.watched, word_at(*machine, parent.watched) + 1);
  CHECK(observer.console().empty());
}

TEST_CASE("a machine that has stopped is not waited for when it is paused") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  Observer observer;
  const auto machine = restored(host, observer, parent, {});
  REQUIRE(machine->resume().ok());
  machine->stop();
  for (int i = 0; i < 2; ++i) CHECK_FALSE(machine->pause().ok());
}

TEST_CASE("a busy guest settles and goes on, and one that has stopped cannot") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  Observer observer;
  const auto machine = restored(host, observer, parent, {});
  REQUIRE(machine->resume().ok());
  REQUIRE(machine->settle().ok());
  wait_until_above(*machine, observer, parent.watched, word_at(*machine, parent.watched) + 1);
  machine->stop();
  CHECK_FALSE(machine->settle().ok());
}

TEST_CASE("the faults of a machine that is observed map no neighbours") {
  Host host;
  const Parent parent(host, "memory", "rounds at ");
  const bool observed = GENERATE(false, true);
  utsname kernel{};
  REQUIRE(::uname(&kernel) == 0);
  if (observed && std::string(kernel.release) < "6.7" && kernel.release[1] == '.') return;  // it cannot be
  MemoryImage memory;
  memory.observed = observed;
  Observer observer;
  const auto machine = restored(host, observer, parent, memory);

  static_cast<void>(word_at(*machine, 16 * mib));
  CHECK(page_at(*machine, 16 * mib) == Page::of_file);
  CHECK(page_at(*machine, 16 * mib + page_size) == (observed ? Page::absent : Page::of_file));
  REQUIRE(machine->resume().ok());
  wait_until_above(*machine, observer, parent.watched, word_at(*parent.machine, parent.watched) + 1);
  REQUIRE(machine->pause().ok());
  const auto state = machine->save();
  REQUIRE(state.ok());
}

TEST_CASE("a shell of another shape is refused") {
  Host host;
  const Parent parent(host, "counter", "counter at ");
  MemoryImage memory;
  memory.base_fd = parent.image.get();
  MachineConfig config;
  config.memory_bytes = guest_memory_bytes;
  auto more_vcpus = make_shell(host, 2)->restore(host.executors(), std::move(config), parent.state, memory);
  REQUIRE_FALSE(more_vcpus.ok());
  CHECK(more_vcpus.error().code == ErrorCode::invalid_argument);

  // The shell fits what is asked for, but the state is of a machine with one vCPU.
  MachineConfig two;
  two.vcpu_count = 2;
  two.memory_bytes = guest_memory_bytes;
  const auto of_another =
      make_shell(host, 2)->restore(host.executors(), std::move(two), parent.state, memory);
  REQUIRE_FALSE(of_another.ok());
  CHECK(of_another.error().code == ErrorCode::conflict);

  CHECK_FALSE(host.shells->make(0, guest_memory_bytes).ok());
  CHECK_FALSE(host.shells->make(max_vcpus + 1, guest_memory_bytes).ok());
  CHECK_FALSE(host.shells->make(1, guest_memory_bytes + 1).ok());
}

TEST_CASE("runs that do not fit the memory or their file are refused") {
  Host host;
  const Parent parent(host, "counter", "counter at ");
  Layer layer(1);
  layer.add(0, mib);
  const int fd = layer.file().get();
  CHECK(refusal(host, parent, {{mib, 2 * mib, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, page_size, fd, mib}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, page_size, fd, UINT64_MAX - page_size + 1}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, page_size / 2, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, 0, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib + 1, page_size, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, page_size, fd, 1}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{guest_memory_bytes, page_size, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{UINT64_MAX - page_size + 1, page_size, fd, 0}}) == ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{mib, 2 * page_size, fd, 0}, {mib + page_size, page_size, fd, 0}}) ==
        ErrorCode::corrupt);
  CHECK(refusal(host, parent, {{2 * mib, page_size, fd, 0}, {mib, page_size, fd, 0}}) == ErrorCode::corrupt);
  CHECK_FALSE(refusal(host, parent, {{mib, page_size, -1, 0}}) ==
              ErrorCode::corrupt);  // not the file's fault
}

TEST_CASE("shells and restored machines leave nothing behind") {
  Host host;
  const Parent parent(host, "counter", "counter at ");
  Layer layer(1);
  const std::vector<MemoryImage::Run> good = {layer.add(8 * mib, mib), layer.add(12 * mib, page_size)};
  std::vector<MemoryImage::Run> bad = good;
  bad.back().file_offset += mib;
  const auto run_some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      REQUIRE(host.shells->make(2, guest_memory_bytes).ok());
      Observer observer;
      const auto machine = restore_layers(host, observer, parent, good);
      REQUIRE(machine.ok());
      REQUIRE((*machine)->resume().ok());
      REQUIRE_FALSE(restore_layers(host, observer, parent, bad).ok());
    }
  };
  run_some(4);  // thread stacks and arenas that are kept for reuse
  const std::size_t descriptors = open_descriptors();
  const std::size_t threads_before = threads();
  const std::size_t maps = lines_of("/proc/self/maps");
  run_some(50);
  CHECK(falls_to(descriptors, open_descriptors));
  CHECK(threads() == threads_before);
  CHECK(mappings_fall_to(maps + 8));
}
