// Which pages of a machine's memory are present in its process, which of those are its own, and which of
// those were written lately.
//
// In a private mapping of an image a page is the file's until it is written to, then the mapping's own
// (anonymous): those are the dirty ones, however long ago they were written. In anonymous memory every
// present page is the mapping's own, and one that is not reads as zeros.
#pragma once

#include <cube/core.hpp>
#include <cube/vmm.hpp>
#include <span>
#include <vector>

namespace cube::snapshot {

enum class PageMethod {
  automatic,  ///< scan, or pagemap where the kernel lacks it
  scan,       ///< ioctl PAGEMAP_SCAN, Linux 6.7: the kernel walks page tables and reports runs
  pagemap,    ///< /proc/PID/pagemap: 8 bytes a page
};

enum class WhichPages {
  present,
  own,
  marked,  ///< own, and written since ProcessMemory::marked_since()
};

/// Runs of pages, ascending, with their offsets in the image; `written` are the memory's own.
Result<std::vector<vmm::PageRun>> resident_pages(const vmm::ProcessMemory& memory, WhichPages which,
                                                 PageMethod method = PageMethod::automatic);

std::uint64_t bytes_of(std::span<const vmm::PageRun> runs);

}  // namespace cube::snapshot
