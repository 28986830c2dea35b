#include "node/store.hpp"

#include <sqlite3.h>

#include <functional>
#include <type_traits>

namespace cube::node {
namespace {

constexpr int schema_version = 2;
constexpr const char* template_table = R"(
  CREATE TABLE template(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, vcpu_count INTEGER NOT NULL,
                        memory_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL, created_at_ms INTEGER NOT NULL);
)";
constexpr const char* sandbox_tables = R"(
  CREATE TABLE sandbox(id TEXT PRIMARY KEY, template_id TEXT NOT NULL, state TEXT NOT NULL,
                       started_at_ms INTEGER NOT NULL, end_at_ms INTEGER NOT NULL, record TEXT NOT NULL);
  CREATE TABLE checkpoint(id TEXT PRIMARY KEY, name TEXT NOT NULL, sandbox_id TEXT NOT NULL,
                          template_id TEXT NOT NULL, template_name TEXT NOT NULL, parent_id TEXT NOT NULL,
                          created_at_ms INTEGER NOT NULL);
)";

Error database_error(sqlite3* database, std::string operation) {
  const int code = sqlite3_errcode(database) & 0xff;
  const ErrorCode kind = code == SQLITE_FULL                               ? ErrorCode::resource_exhausted
                         : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? ErrorCode::corrupt
                                                                           : ErrorCode::internal;
  return make_error(kind, std::move(operation) + ": " + sqlite3_errmsg(database), "database");
}

/// One prepared statement; parameters are bound in order, a row is read column by column.
class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    failed_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr) != SQLITE_OK;
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(std::string_view text) {
    failed_ |= sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                                 SQLITE_TRANSIENT) != SQLITE_OK;
    return *this;
  }
  Statement& bind(std::int64_t number) {
    failed_ |= sqlite3_bind_int64(statement_, ++bound_, number) != SQLITE_OK;
    return *this;
  }

  /// Calls `row` for each result row.
  Result<void> run(const std::function<void(Statement&)>& row = {}) {
    if (failed_) return database_error(database_, "cannot prepare a statement");
    for (;;) {
      const int step = sqlite3_step(statement_);
      if (step == SQLITE_DONE) return {};
      if (step != SQLITE_ROW) return database_error(database_, "cannot execute a statement");
      if (row) row(*this);
    }
  }

  std::string text(int column) {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return bytes == nullptr
               ? ""
               : std::string(bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column)));
  }
  std::int64_t number(int column) { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  bool failed_ = false;
};

Result<void> execute(sqlite3* database, const char* sql) {
  if (sqlite3_exec(database, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return database_error(database, "cannot change the database");
}

/// All of `work` or nothing of it.
Result<void> transaction(sqlite3* database, const std::function<Result<void>()>& work) {
  CUBE_TRY(execute(database, "BEGIN IMMEDIATE"));
  auto result = work();
  if (result.ok()) result = execute(database, "COMMIT");
  if (!result.ok()) [[maybe_unused]]
    const auto ignored = execute(database, "ROLLBACK");
  return result;
}

Result<void> prepare_schema(sqlite3* database) {
  CUBE_TRY(
      execute(database, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;"));
  std::int64_t version = 0;
  CUBE_TRY(Statement(database, "PRAGMA user_version").run([&](Statement& row) { version = row.number(0); }));
  if (version == schema_version) return {};
  if (version > schema_version || version < 0)
    return make_error(ErrorCode::conflict,
                      "written by another version of cubed (schema " + std::to_string(version) +
                          ", this one has " + std::to_string(schema_version) +
                          "): use another state directory",
                      "database");
  return transaction(database, [&]() -> Result<void> {
    if (version == 0) CUBE_TRY(execute(database, template_table));
    // The first version knew running sandboxes only, and none of those outlives its daemon.
    if (version == 1) CUBE_TRY(execute(database, "DROP TABLE sandbox"));
    CUBE_TRY(execute(database, sandbox_tables));
    return execute(database, ("PRAGMA user_version=" + std::to_string(schema_version)).c_str());
  });
}

/// Everything committed so far is on the disk when it returns.
Result<void> checkpoint_log(sqlite3* database) { return execute(database, "PRAGMA wal_checkpoint(FULL)"); }

}  // namespace

std::int64_t to_ms(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

std::chrono::system_clock::time_point from_ms(std::int64_t ms) {
  return std::chrono::system_clock::time_point(std::chrono::milliseconds(ms));
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
  sqlite3* database = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int opened = sqlite3_open_v2(path.c_str(), &database, flags, nullptr);
  auto store = std::unique_ptr<Store>(new Store(database));
  auto prepared = opened == SQLITE_OK ? prepare_schema(database) : database_error(database, "cannot open");
  if (!prepared.ok()) {
    prepared.error().object = path;
    return std::move(prepared).error();
  }
  return store;
}

Store::~Store() { sqlite3_close(database_); }

Result<std::vector<TemplateRow>> Store::templates() {
  const std::scoped_lock lock(mutex_);
  std::vector<TemplateRow> rows;
  Statement query(database_,
                  "SELECT id, name, vcpu_count, memory_mib, disk_mib, created_at_ms FROM template");
  CUBE_TRY(query.run([&](Statement& row) {
    rows.push_back({row.text(0), row.text(1), static_cast<std::uint32_t>(row.number(2)),
                    static_cast<std::uint64_t>(row.number(3)), static_cast<std::uint64_t>(row.number(4)),
                    row.number(5)});
  }));
  return rows;
}

Result<void> Store::put_template(const TemplateRow& row) {
  const std::scoped_lock lock(mutex_);
  CUBE_TRY(transaction(database_, [&]() -> Result<void> {
    CUBE_TRY(Statement(database_, "DELETE FROM template WHERE name = ?").bind(row.name).run());
    return Statement(database_, "INSERT INTO template VALUES(?, ?, ?, ?, ?, ?)")
        .bind(row.id)
        .bind(row.name)
        .bind(row.vcpu_count)
        .bind(static_cast<std::int64_t>(row.memory_mib))
        .bind(static_cast<std::int64_t>(row.disk_mib))
        .bind(row.created_at_ms)
        .run();
  }));
  return checkpoint_log(database_);
}

Result<void> Store::remove_template(std::string_view id) {
  const std::scoped_lock lock(mutex_);
  return Statement(database_, "DELETE FROM template WHERE id = ?").bind(id).run();
}

Result<std::vector<SandboxRow>> Store::sandboxes() {
  const std::scoped_lock lock(mutex_);
  std::vector<SandboxRow> rows;
  Statement query(database_, "SELECT id, template_id, state, started_at_ms, end_at_ms, record FROM sandbox");
  CUBE_TRY(query.run([&](Statement& row) {
    rows.push_back({row.text(0), row.text(1), row.text(2), row.number(3), row.number(4), row.text(5)});
  }));
  return rows;
}

Result<void> Store::put_sandbox(const SandboxRow& row, Durability durability) {
  const std::scoped_lock lock(mutex_);
  CUBE_TRY(Statement(database_, "INSERT OR REPLACE INTO sandbox VALUES(?, ?, ?, ?, ?, ?)")
               .bind(row.id)
               .bind(row.template_id)
               .bind(row.state)
               .bind(row.started_at_ms)
               .bind(row.end_at_ms)
               .bind(row.record)
               .run());
  return durability == Durability::host ? checkpoint_log(database_) : Result<void>();
}

Result<void> Store::update_sandbox(const SandboxRow& row) {
  const std::scoped_lock lock(mutex_);
  return Statement(database_, "UPDATE sandbox SET end_at_ms = ?, record = ? WHERE id = ? AND state = ?")
      .bind(row.end_at_ms)
      .bind(row.record)
      .bind(row.id)
      .bind(row.state)
      .run();
}

Result<void> Store::remove_sandbox(std::string_view id) {
  const std::scoped_lock lock(mutex_);
  return Statement(database_, "DELETE FROM sandbox WHERE id = ?").bind(id).run();
}

Result<std::vector<CheckpointRow>> Store::checkpoints() {
  const std::scoped_lock lock(mutex_);
  std::vector<CheckpointRow> rows;
  Statement query(database_,
                  "SELECT id, name, sandbox_id, template_id, template_name, parent_id, created_at_ms FROM "
                  "checkpoint");
  CUBE_TRY(query.run([&](Statement& row) {
    rows.push_back(
        {row.text(0), row.text(1), row.text(2), row.text(3), row.text(4), row.text(5), row.number(6)});
  }));
  return rows;
}

Result<void> Store::put_checkpoint(const CheckpointRow& row) {
  const std::scoped_lock lock(mutex_);
  CUBE_TRY(transaction(database_, [&]() -> Result<void> {
    if (!row.name.empty())
      CUBE_TRY(Statement(database_, "UPDATE checkpoint SET name = '' WHERE name = ?").bind(row.name).run());
    return Statement(database_, "INSERT INTO checkpoint VALUES(?, ?, ?, ?, ?, ?, ?)")
        .bind(row.id)
        .bind(row.name)
        .bind(row.sandbox_id)
        .bind(row.template_id)
        .bind(row.template_name)
        .bind(row.parent_id)
        .bind(row.created_at_ms)
        .run();
  }));
  return checkpoint_log(database_);
}

Result<void> Store::remove_checkpoint(std::string_view id) {
  const std::scoped_lock lock(mutex_);
  return transaction(database_, [&]() -> Result<void> {
    CUBE_TRY(
        Statement(database_,
                  "UPDATE sandbox SET record = json_set(record, '$.checkpoint_id', (SELECT parent_id "
                  "FROM checkpoint WHERE id = ?1)) WHERE EXISTS (SELECT 1 FROM checkpoint WHERE id = ?1) "
                  "AND CASE WHEN json_valid(record) THEN json_extract(record, '$.checkpoint_id') END = ?1")
            .bind(id)
            .run());
    CUBE_TRY(Statement(database_,
                       "UPDATE checkpoint SET parent_id = (SELECT parent_id FROM checkpoint WHERE id = ?1) "
                       "WHERE parent_id = ?1")
                 .bind(id)
                 .run());
    return Statement(database_, "DELETE FROM checkpoint WHERE id = ?").bind(id).run();
  });
}

}  // namespace cube::node
