// What happened in the guest, for the sandbox's log: a bounded ring in memory, so that it goes wherever the
// guest's memory goes (pauses, snapshots, forks). Only the daemon reads it, over control_port.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cube/guest.hpp>
#include <deque>
#include <map>
#include <string>
#include <string_view>

namespace cube::agent {

class Journal {
 public:
  using Fields = std::map<std::string, std::string>;

  /// `capacity` in bytes, counted as they are sent; the oldest entries give way.
  explicit Journal(std::size_t capacity = guest::journal_bytes) : capacity_(capacity) {}

  /// `level`: debug, info, warn or error. Long values are cut, with "…" at their end.
  void add(std::string_view level, std::string_view message, const Fields& fields);

  /// {"entries":[{"unixTimeNs":"…","level":"…","message":"…","fields":{…}},…]}, oldest first, of those that
  /// happened at `since` or later.
  std::string json(std::int64_t since_unix_ns) const;

  std::size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::int64_t unix_time_ns;
    std::string json;
  };

  std::size_t capacity_;
  std::size_t bytes_ = 0;
  std::deque<Entry> entries_;
};

}  // namespace cube::agent
