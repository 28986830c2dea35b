// Store: what must outlive the daemon, in one SQLite database (write-ahead log).
//
// A commit survives the daemon's death at once and the host's at the next checkpoint of the log. What is
// worth more than a running sandbox (templates, paused sandboxes, checkpoints) is checkpointed before the
// call returns. Safe from any thread; blocks.
#pragma once

#include <chrono>
#include <cstdint>
#include <cube/core.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

struct sqlite3;

namespace cube::node {

/// How rows hold a time of the wall clock: milliseconds since 1970.
std::int64_t to_ms(std::chrono::system_clock::time_point time);
std::chrono::system_clock::time_point from_ms(std::int64_t ms);

struct TemplateRow {
  std::string id;
  std::string name;
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_mib = 0;
  std::uint64_t disk_mib = 0;
  std::int64_t created_at_ms = 0;  ///< since 1970
};

struct SandboxRow {
  std::string id;
  std::string template_id;
  std::string state;
  std::int64_t started_at_ms = 0;
  std::int64_t end_at_ms = 0;
  std::string record;  ///< the rest of it, see sandbox_record.hpp
};

struct CheckpointRow {
  std::string id;
  std::string name;  ///< empty: none
  std::string sandbox_id;
  std::string template_id;
  std::string template_name;
  std::string parent_id;
  std::int64_t created_at_ms = 0;
};

/// What a commit must survive: the daemon's death, or the host's too, which costs a sync.
enum class Durability { process, host };

class Store {
 public:
  /// Creates the database if there is none. `conflict` if it was written by another version.
  static Result<std::unique_ptr<Store>> open(const std::string& path);
  ~Store();

  Result<std::vector<TemplateRow>> templates();
  /// Takes the name away from whoever had it, in the same transaction.
  Result<void> put_template(const TemplateRow& row);
  Result<void> remove_template(std::string_view id);

  Result<std::vector<SandboxRow>> sandboxes();
  Result<void> put_sandbox(const SandboxRow& row, Durability durability = Durability::process);
  /// Only if it is there, in the same state; not an error otherwise.
  Result<void> update_sandbox(const SandboxRow& row);
  Result<void> remove_sandbox(std::string_view id);

  Result<std::vector<CheckpointRow>> checkpoints();
  /// Takes the name away from whoever had it, in the same transaction.
  Result<void> put_checkpoint(const CheckpointRow& row);
  /// Its descendants, sandboxes among them, descend from its parent then.
  Result<void> remove_checkpoint(std::string_view id);

 private:
  explicit Store(sqlite3* database) : database_(database) {}

  std::mutex mutex_;
  sqlite3* database_;
};

}  // namespace cube::node
