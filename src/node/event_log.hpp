// A sandbox's log: what the host did with it, and what its agent noted about it.
//
// The host's part is a bounded ring in the daemon's memory; it ends with the sandbox or the daemon. The
// guest's is in the guest's memory (cube/guest.hpp, GET /journal), so it is paused, copied and rolled back
// with it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cube/core.hpp>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cube::node {

struct LogEntry {
  std::chrono::system_clock::time_point at;
  LogLevel level = LogLevel::info;
  std::string source;  ///< "cubed" or "cube-agent"
  std::string message;
  std::map<std::string, std::string> fields;
};

class EventLog {
 public:
  static constexpr std::size_t capacity = 200;
  using Fields = std::map<std::string, std::string>;

  /// The oldest entry gives way.
  void add(LogLevel level, std::string message, Fields fields = {});

  /// In the place of the last entry if that has the same message: what clients do every few seconds must not
  /// push out the rest.
  void add_or_replace(std::string message, Fields fields);

  const std::vector<LogEntry>& entries() const { return entries_; }

 private:
  std::vector<LogEntry> entries_;
};

/// The agent's answer to GET /journal, the guest's own words: times are forced into the years 1970 to 2200,
/// what is no entry is left out, and there is no more of it than a journal can hold. `guest` if the whole
/// makes no sense.
Result<std::vector<LogEntry>> parse_journal(std::string_view json);

/// Both in the order of their times, those of the same time as they came, from `first` on.
std::vector<LogEntry> merge_logs(std::vector<LogEntry> host, std::vector<LogEntry> guest,
                                 std::chrono::system_clock::time_point first);

}  // namespace cube::node
