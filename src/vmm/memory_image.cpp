#include "vmm/memory_image.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <vector>

namespace cube::vmm {
namespace {

using Run = MemoryImage::Run;

// What is mapped, clones share, and a page that is not touched costs nothing; what is copied saves a mapping,
// which costs as much as two pages: with runs of one page mapped, too, a fork took a sixth longer.
constexpr std::size_t most_mapped_runs = 512;
constexpr std::uint64_t least_mapped_bytes = 16u << 10;

Error corrupt(const char* why) { return make_error(ErrorCode::corrupt, why, "memory image"); }

/// Checks that files hold what is wanted of them; asks for the size of each once.
class FileSizes {
 public:
  Result<void> check(int fd, std::uint64_t offset, std::uint64_t bytes) {
    const auto [known, is_new] = sizes_.try_emplace(fd);
    if (is_new) {
      struct stat status {};
      if (::fstat(fd, &status) != 0) return os_error(errno, "cannot inspect a file", "memory image");
      known->second = static_cast<std::uint64_t>(status.st_size);
    }
    if (offset > known->second || bytes > known->second - offset)
      return corrupt("a file is shorter than the guest memory it should hold");
    return {};
  }

 private:
  std::map<int, std::uint64_t> sizes_;
};

Result<void> check(const MemoryImage& image, std::uint64_t memory_bytes) {
  FileSizes sizes;
  CUBE_TRY(sizes.check(image.base_fd, 0, memory_bytes));
  std::uint64_t end_of_last = 0;
  for (const Run& run : image.runs) {
    if (run.memory_offset % page_size != 0 || run.bytes % page_size != 0 || run.bytes == 0 ||
        run.file_offset % page_size != 0)
      return corrupt("a run of guest memory is not made of whole pages");
    if (run.memory_offset < end_of_last || run.memory_offset > memory_bytes ||
        run.bytes > memory_bytes - run.memory_offset)
      return corrupt("the runs of guest memory overlap or lie outside it");
    end_of_last = run.memory_offset + run.bytes;
    CUBE_TRY(sizes.check(run.fd, run.file_offset, run.bytes));
  }
  return {};
}

}  // namespace

Result<ImagePlan> plan_image(const MemoryImage& image, std::uint64_t memory_bytes) {
  CUBE_TRY(check(image, memory_bytes));
  std::vector<Run> runs(image.runs.begin(), image.runs.end());
  const auto small = std::partition(runs.begin(), runs.end(),
                                    [](const Run& run) { return run.bytes >= least_mapped_bytes; });
  const auto copied = runs.begin() + std::min<std::ptrdiff_t>(small - runs.begin(), most_mapped_runs);
  std::nth_element(runs.begin(), copied, small, [](const Run& a, const Run& b) { return a.bytes > b.bytes; });
  ImagePlan plan;
  plan.mapped.push_back({0, memory_bytes, image.base_fd, 0});
  plan.mapped.insert(plan.mapped.end(), runs.begin(), copied);
  plan.copied.assign(copied, runs.end());
  std::ranges::sort(plan.copied, {}, [](const Run& run) { return std::pair(run.fd, run.file_offset); });
  return plan;
}

Result<void> map_file(std::span<std::byte> part, int fd, std::uint64_t offset) {
  if (::mmap(part.data(), part.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
             static_cast<off_t>(offset)) == MAP_FAILED)
    return os_error(errno, "cannot map guest memory", "memory image");
  return {};
}

// A layer's file holds its pages one after another, so that most runs are neighbours.
Result<void> copy_runs(std::span<std::byte> memory, std::span<const Run> runs) {
  std::vector<iovec> pieces;
  for (std::size_t first = 0, last = 0; first < runs.size(); first = last) {
    const int fd = runs[first].fd;
    const std::uint64_t offset = runs[first].file_offset;
    std::uint64_t end = offset;
    for (; last < runs.size() && runs[last].fd == fd && runs[last].file_offset == end; ++last) {
      // Cheaper than a fault for each page while it is copied to.
      ::madvise(memory.data() + runs[last].memory_offset, runs[last].bytes, MADV_POPULATE_WRITE);
      pieces.push_back({memory.data() + runs[last].memory_offset, runs[last].bytes});
      end += runs[last].bytes;
    }
    CUBE_TRY(read_vectored(fd, pieces, offset, "memory image"));
    pieces.clear();
  }
  return {};
}

}  // namespace cube::vmm
