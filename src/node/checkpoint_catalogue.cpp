#include "node/checkpoint_catalogue.hpp"

#include <algorithm>
#include <filesystem>

namespace cube::node {

using asio::awaitable;

namespace {

CheckpointInfo info_of(const CheckpointRow& row) {
  CheckpointInfo info;
  info.id = row.id;
  info.name = row.name;
  info.sandbox_id = row.sandbox_id;
  info.template_id = row.template_id;
  info.template_name = row.template_name;
  info.parent_id = row.parent_id;
  info.created_at = from_ms(row.created_at_ms);
  return info;
}

void describe(CheckpointInfo& info, const snapshot::Shape& shape) {
  info.vcpu_count = shape.vcpu_count;
  info.memory_mib = shape.memory_bytes >> 20;
  info.disk_mib = shape.disk_bytes >> 20;
}

}  // namespace

CheckpointCatalogue::CheckpointCatalogue(const vmm::Executors& executors, Store& store, std::string directory,
                                         std::string scratch_directory, RemovalFunction on_removed)
    : workers_(executors.workers),
      store_(store),
      directory_(std::move(directory)),
      scratch_directory_(std::move(scratch_directory)),
      on_removed_(std::move(on_removed)),
      naming_(executors.loop) {}

Result<void> CheckpointCatalogue::load() {
  CUBE_TRY(snapshot::remove_leftovers(directory_));
  const auto rows = store_.checkpoints();
  if (!rows) return rows.error();
  for (const CheckpointRow& row : *rows) {
    Entry entry{info_of(row), snapshot::open(directory_of(row.id), scratch_directory_)};
    if (entry.snapshot)
      describe(entry.info, (*entry.snapshot)->shape());
    else
      log(LogLevel::error, "node", "a checkpoint cannot be used",
          {{"checkpoint", row.id}, {"error", entry.snapshot.error().describe()}});
    entries_.push_back(std::move(entry));
  }
  return snapshot::remove_unknown(
      directory_, [&](const std::string& id) { return by_id(id) != nullptr; }, "checkpoint");
}

awaitable<Result<CheckpointInfo>> CheckpointCatalogue::add(CheckpointInfo info,
                                                           snapshot::SnapshotPtr snapshot) {
  info.id = make_template_id();
  info.created_at = Clock::now();
  describe(info, snapshot->shape());
  const std::string directory = directory_of(info.id);
  const auto published = co_await run_on(workers_, [&] { return snapshot->publish(directory); });
  if (!published.ok()) co_return published.error();
  // One after another: who takes a name last is the same here and in the store.
  const auto turn = co_await naming_.lock();
  const auto stored = co_await run_on(workers_, [&] { return store(info); });
  if (!stored.ok()) co_return stored.error();
  if (!info.name.empty())
    for (Entry& entry : entries_)
      if (entry.info.name == info.name) entry.info.name.clear();
  Entry entry{info, std::move(snapshot)};
  entries_.push_back(std::move(entry));
  co_return info;
}

/// On a worker: the checkpoint is known from here on, even after a crash.
Result<void> CheckpointCatalogue::store(const CheckpointInfo& info) {
  auto stored = store_.put_checkpoint({info.id, info.name, info.sandbox_id, info.template_id,
                                       info.template_name, info.parent_id, to_ms(info.created_at)});
  if (!stored)
    if (const auto removed = snapshot::remove(directory_of(info.id)); !removed)
      log(LogLevel::warning, "node", removed.error().describe());
  return stored;
}

awaitable<void> CheckpointCatalogue::replace(snapshot::SnapshotPtr before, snapshot::SnapshotPtr merged) {
  const auto found = std::ranges::find_if(
      entries_, [&](const Entry& entry) { return entry.snapshot && *entry.snapshot == before; });
  if (found == entries_.end()) co_return;
  const std::string id = found->info.id;
  const auto replaced = co_await run_on(workers_, [&] { return merged->publish_over(directory_of(id)); });
  if (!replaced.ok()) {
    // Removed meanwhile, or a full disk: it stays as it was.
    log(LogLevel::info, "node", replaced.error().describe(), {{"checkpoint", id}});
    co_return;
  }
  for (Entry& entry : entries_)
    if (entry.info.id == id) entry.snapshot = std::move(merged);
}

bool CheckpointCatalogue::descends(const std::string& descendant, const std::string& ancestor) const {
  // Parents are older than their children, so there is no circle; the bound is for a store that lies.
  const Entry* entry = by_id(descendant);
  for (std::size_t steps = 0; entry != nullptr && steps <= entries_.size(); ++steps) {
    if (entry->info.id == ancestor) return true;
    entry = by_id(entry->info.parent_id);
  }
  return false;
}

std::vector<CheckpointInfo> CheckpointCatalogue::list() const {
  std::vector<CheckpointInfo> infos;
  for (const Entry& entry : entries_) infos.push_back(entry.info);
  std::ranges::sort(infos, [](const CheckpointInfo& a, const CheckpointInfo& b) {
    return a.created_at != b.created_at ? a.created_at > b.created_at : a.id < b.id;
  });
  return infos;
}

Result<CheckpointInfo> CheckpointCatalogue::find(std::string_view reference) const {
  const auto index = locate(reference);
  if (!index) return index.error();
  return entries_[*index].info;
}

Result<CloneSource> CheckpointCatalogue::source(std::string_view reference) const {
  const auto index = locate(reference);
  if (!index) return index.error();
  const Entry& entry = entries_[*index];
  if (!entry.snapshot) {
    Error error = entry.snapshot.error();
    const std::string file = std::filesystem::path(error.object).filename();  // not where the daemon keeps it
    error.object.clear();
    error.message = "snapshot '" + entry.info.id + "' cannot be used: " + file + ": " + error.message;
    return error;
  }
  return CloneSource{entry.info.template_id, entry.info.template_name, entry.info.id, *entry.snapshot};
}

awaitable<Result<void>> CheckpointCatalogue::remove(std::string reference) {
  const auto index = locate(reference);
  if (!index) co_return index.error();
  const CheckpointInfo gone = entries_[*index].info;
  entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(*index));
  for (Entry& entry : entries_)
    if (entry.info.parent_id == gone.id) entry.info.parent_id = gone.parent_id;
  on_removed_(gone.id, gone.parent_id);
  co_return co_await run_on(workers_, [&]() -> Result<void> {
    CUBE_TRY(store_.remove_checkpoint(gone.id));
    return snapshot::remove_if_there(directory_of(gone.id));
  });
}

Result<std::size_t> CheckpointCatalogue::locate(std::string_view reference) const {
  const std::size_t colon = reference.find(':');
  const std::string_view name = reference.substr(0, colon);
  const std::string_view tag = colon == reference.npos ? "default" : reference.substr(colon + 1);
  if (!name.empty() && (tag == "default" || tag == "latest"))
    for (std::size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i].info.id == name || entries_[i].info.name == name) return i;
  return make_error(ErrorCode::not_found, "snapshot '" + std::string(reference) + "' not found");
}

const CheckpointCatalogue::Entry* CheckpointCatalogue::by_id(const std::string& id) const {
  const auto found = std::ranges::find(entries_, id, [](const Entry& entry) { return entry.info.id; });
  return found != entries_.end() ? &*found : nullptr;
}

}  // namespace cube::node
