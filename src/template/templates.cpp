// The catalogue of templates: which there are, under which names, and their opened snapshots.
#include <algorithm>
#include <cube/template.hpp>
#include <filesystem>
#include <set>

#include "template/builder.hpp"

namespace cube::templates {
namespace {

using asio::awaitable;

struct Entry {
  TemplateInfo info;
  Result<snapshot::SnapshotPtr> snapshot;
};

Error not_found(std::string_view reference) {
  return make_error(ErrorCode::not_found, "template '" + std::string(reference) + "' not found");
}

/// Names the file, but not where the daemon keeps it.
Error damaged(const Entry& entry) {
  Error error = entry.snapshot.error();
  const std::string file = std::filesystem::path(error.object).filename();
  error.message =
      "template '" + entry.info.name + "' cannot be used, build it again: " + file + ": " + error.message;
  return error;
}

Result<void> check(const BuildRequest& request) {
  if (!is_template_name(request.name))
    return make_error(ErrorCode::invalid_argument,
                      "a template name has 1 to 128 characters of a-z, 0-9, '-' and '_'", request.name);
  if (request.vcpu_count == 0 || request.vcpu_count > vmm::max_vcpus)
    return make_error(ErrorCode::invalid_argument, "cpuCount must be 1 to " + std::to_string(vmm::max_vcpus));
  if (request.memory_mib < least_memory_mib || request.memory_mib > most_memory_mib)
    return make_error(ErrorCode::invalid_argument, "memoryMB must be " + std::to_string(least_memory_mib) +
                                                       " to " + std::to_string(most_memory_mib));
  if (request.disk_mib > most_disk_mib)
    return make_error(ErrorCode::invalid_argument,
                      "diskSizeMB must be at most " + std::to_string(most_disk_mib));
  return {};
}

class TemplatesImpl final : public Templates, public std::enable_shared_from_this<TemplatesImpl> {
 public:
  TemplatesImpl(vmm::Executors executors, node::Store& store, Settings settings)
      : executors_(std::move(executors)), store_(store), settings_(std::move(settings)) {}

  /// Start-up: the store says what there is, the directories hold it.
  Result<void> load() {
    CUBE_TRY(snapshot::remove_leftovers(settings_.directory));
    const auto rows = store_.templates();
    if (!rows) return rows.error();
    for (const node::TemplateRow& row : *rows) {
      Entry entry{{row.id, row.name, row.vcpu_count, row.memory_mib, row.disk_mib, 0,
                   node::from_ms(row.created_at_ms)},
                  snapshot::open(directory_of(row.id), settings_.scratch_directory)};
      if (!entry.snapshot)
        log(LogLevel::error, "template", "a template cannot be used",
            {{"template", row.id}, {"name", row.name}, {"error", entry.snapshot.error().describe()}});
      entries_.push_back(std::move(entry));
    }
    const auto known = [&](const std::string& id) {
      return std::ranges::any_of(entries_, [&](const Entry& entry) { return entry.info.id == id; });
    };
    return snapshot::remove_unknown(settings_.directory, known, "template");
  }

  std::vector<TemplateInfo> list() const override {
    std::vector<TemplateInfo> infos;
    for (const Entry& entry : entries_) infos.push_back(entry.info);
    std::ranges::sort(infos, {}, &TemplateInfo::name);
    return infos;
  }

  Result<TemplateInfo> find(std::string_view reference) const override {
    auto index = locate(reference);
    if (!index) return std::move(index).error();
    return entries_[*index].info;
  }

  Result<node::CloneSource> source(std::string_view reference) const override {
    const auto index = locate(reference);
    if (!index) return index.error();
    const Entry& entry = entries_[*index];
    if (!entry.snapshot) return damaged(entry);
    return node::CloneSource{entry.info.id, entry.info.name, "", *entry.snapshot};
  }

  void count_spawn(std::string_view id) override {
    for (Entry& entry : entries_)
      if (entry.info.id == id) ++entry.info.spawn_count;
  }

  awaitable<Result<TemplateInfo>> build(BuildRequest request,
                                        std::function<void(std::string_view)> progress) override {
    const auto self = shared_from_this();
    const auto checked = check(request);
    if (!checked.ok()) co_return checked.error();
    if (!building_.insert(request.name).second)
      co_return make_error(ErrorCode::conflict, "this template is being built already", request.name);
    auto built = co_await build_and_publish(request, progress);
    building_.erase(request.name);
    co_return built;
  }

  awaitable<Result<void>> remove(std::string reference) override {
    const auto self = shared_from_this();
    const auto index = locate(reference);
    if (!index) co_return index.error();
    const std::string id = entries_[*index].info.id;
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(*index));
    co_return co_await run_on(executors_.workers, [&]() -> Result<void> {
      CUBE_TRY(store_.remove_template(id));
      return snapshot::remove(directory_of(id));
    });
  }

 private:
  std::string directory_of(const std::string& id) const { return settings_.directory + "/" + id; }

  /// The index of an entry by id, name or name:tag.
  Result<std::size_t> locate(std::string_view reference) const {
    const std::size_t colon = reference.find(':');
    const std::string_view name = reference.substr(0, colon);
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (entries_[i].info.id != name && entries_[i].info.name != name) continue;
      const std::string_view tag = colon == reference.npos ? "default" : reference.substr(colon + 1);
      if (tag == "default" || tag == "latest") return i;
      return make_error(ErrorCode::not_found, "tag '" + std::string(tag) + "' does not exist for template '" +
                                                  std::string(name) + "'");
    }
    return not_found(reference);
  }

  awaitable<Result<TemplateInfo>> build_and_publish(const BuildRequest& request,
                                                    const std::function<void(std::string_view)>& progress) {
    TemplateInfo info;
    info.id = make_template_id();
    info.name = request.name;
    info.created_at = std::chrono::system_clock::now();
    const auto shape = co_await build_snapshot(executors_, settings_, info.id, request, progress);
    if (!shape.ok()) co_return shape.error();
    info.vcpu_count = shape->vcpu_count;
    info.memory_mib = shape->memory_bytes >> 20;
    info.disk_mib = shape->disk_bytes >> 20;
    auto opened = co_await run_on(executors_.workers, [&] { return publish(info); });
    if (!opened) co_return std::move(opened).error();
    Entry entry{info,
                std::move(opened)};  // named: g++ 12 destroys an aggregate in a co_await expression twice
    co_await replace(std::move(entry));
    co_return info;
  }

  /// On a worker: the template is known from here on, even after a crash.
  Result<snapshot::SnapshotPtr> publish(const TemplateInfo& info) {
    auto opened = snapshot::open(directory_of(info.id), settings_.scratch_directory);
    if (!opened) return std::move(opened).error();
    const auto stored = store_.put_template(
        {info.id, info.name, info.vcpu_count, info.memory_mib, info.disk_mib, node::to_ms(info.created_at)});
    if (stored.ok()) return opened;
    if (const auto removed = snapshot::remove(directory_of(info.id)); !removed.ok())
      log(LogLevel::warning, "template", removed.error().describe());
    return stored.error();
  }

  /// Takes the place of the entry with the same name, whose files go.
  awaitable<void> replace(Entry entry) {
    const auto old = std::ranges::find(entries_, entry.info.name, [](const Entry& e) { return e.info.name; });
    if (old == entries_.end()) {
      entries_.push_back(std::move(entry));
      co_return;
    }
    const std::string old_id = old->info.id;
    *old = std::move(entry);
    const auto removed =
        co_await run_on(executors_.workers, [&] { return snapshot::remove(directory_of(old_id)); });
    if (!removed.ok()) log(LogLevel::warning, "template", removed.error().describe(), {{"template", old_id}});
  }

  vmm::Executors executors_;
  node::Store& store_;
  const Settings settings_;
  std::vector<Entry> entries_;
  std::set<std::string> building_;
};

}  // namespace

Result<std::shared_ptr<Templates>> make_templates(vmm::Executors executors, node::Store& store,
                                                  Settings settings) {
  auto templates = std::make_shared<TemplatesImpl>(std::move(executors), store, std::move(settings));
  CUBE_TRY(templates->load());
  return templates;
}

}  // namespace cube::templates
