// Sandboxes and templates that are only entries in a map: for the tests of what speaks HTTP in front of them.
// A sandbox's ports are real ports of this machine.
#pragma once

#include <algorithm>
#include <cube/http.hpp>
#include <cube/node.hpp>
#include <cube/template.hpp>
#include <optional>

namespace cube::test {

class MemoryTemplates final : public templates::Templates {
 public:
  std::vector<templates::TemplateInfo> list() const override { return infos; }

  Result<templates::TemplateInfo> find(std::string_view reference) const override {
    for (const auto& info : infos)
      if (reference == info.id || reference == info.name || reference == info.name + ":default") return info;
    return make_error(ErrorCode::not_found, "no such template", std::string(reference));
  }

  asio::awaitable<Result<templates::TemplateInfo>> build(
      templates::BuildRequest request, std::function<void(std::string_view)> progress) override {
    last_build = request;
    progress("copying the image");
    progress("booting \"it\"");
    if (build_error) co_return *build_error;
    templates::TemplateInfo info;
    info.id = "tttttttttttttttttttt";
    info.name = request.name;
    info.vcpu_count = request.vcpu_count;
    info.memory_mib = request.memory_mib;
    infos.push_back(info);
    co_return info;
  }

  Result<node::CloneSource> source(std::string_view reference) const override {
    const auto info = find(reference);
    if (!info.ok()) return info.error();
    return node::CloneSource{info->id, info->name, "", nullptr};
  }

  void count_spawn(std::string_view) override {}

  asio::awaitable<Result<void>> remove(std::string reference) override {
    const auto info = find(reference);
    if (!info.ok()) co_return info.error();
    std::erase_if(infos, [&](const auto& each) { return each.id == info->id; });
    co_return Result<void>{};
  }

  std::vector<templates::TemplateInfo> infos;
  std::optional<templates::BuildRequest> last_build;
  std::optional<Error> build_error;
};

class MemoryCheckpoints final : public node::Checkpoints {
 public:
  std::vector<node::CheckpointInfo> list() const override { return infos; }

  Result<node::CheckpointInfo> find(std::string_view reference) const override {
    const std::string_view name = reference.substr(0, reference.find(":default"));
    for (const auto& info : infos)
      if (name == info.id || name == info.name) return info;
    return make_error(ErrorCode::not_found, "no such snapshot", std::string(reference));
  }

  Result<node::CloneSource> source(std::string_view reference) const override {
    const auto info = find(reference);
    if (!info.ok()) return info.error();
    return node::CloneSource{info->template_id, info->template_name, info->id, nullptr};
  }

  asio::awaitable<Result<void>> remove(std::string reference) override {
    if (error) co_return *error;
    const auto info = find(reference);
    if (!info.ok()) co_return info.error();
    std::erase_if(infos, [&](const auto& each) { return each.id == info->id; });
    co_return Result<void>{};
  }

  std::vector<node::CheckpointInfo> infos;  ///< newest first
  std::optional<Error> error;               ///< of remove
};

class MemorySandboxes final : public node::Sandboxes {
 public:
  asio::awaitable<Result<node::SandboxInfo>> create(node::CreateRequest request) override {
    last_create = request;
    if (error) co_return *error;
    if (request.template_ref != "base") co_return make_error(ErrorCode::not_found, "no such template");
    node::SandboxInfo info = make("i" + std::string(19, 'a') + static_cast<char>('a' + infos.size()));
    info.metadata = std::move(request.metadata);
    info.network = std::move(request.network);
    if (!info.network.allow_public_traffic) info.traffic_access_token = "traffic-token";
    info.end_at = info.started_at + request.timeout;
    infos.push_back(info);
    co_return info;
  }

  Result<node::SandboxInfo> get(std::string_view id) const override {
    const auto found = std::ranges::find(infos, id, &node::SandboxInfo::id);
    if (found != infos.end()) return *found;
    return make_error(ErrorCode::not_found, "no such sandbox", std::string(id));
  }

  const node::SandboxInfo* peek(std::string_view id) const override {
    const auto found = std::ranges::find(infos, id, &node::SandboxInfo::id);
    return found != infos.end() ? &*found : nullptr;
  }

  void for_each(const std::function<void(const node::SandboxInfo&)>& visit) const override {
    for (const auto& info : infos) visit(info);
  }

  std::vector<node::SandboxInfo> list() const override { return infos; }

  asio::awaitable<Result<Connected>> connect(std::string id, ResumeOptions options) override {
    last_timeout = options.timeout;
    last_with_memory = options.with_memory;
    if (error) co_return *error;
    auto info = get(id);
    if (!info.ok()) co_return info.error();
    co_return Connected{*info, info->state == node::SandboxState::paused};
  }

  asio::awaitable<Result<void>> pause(std::string id, PauseOptions options) override {
    last_pause = options;
    auto entered = enter(id, node::SandboxState::running, node::SandboxState::paused);
    if (!entered.ok()) co_return entered.error();
    (*entered)->paused_with_memory = options.with_memory;
    co_return Result<void>{};
  }

  asio::awaitable<Result<node::SandboxInfo>> resume(std::string id, ResumeOptions options) override {
    last_timeout = options.timeout;
    last_with_memory = options.with_memory;
    const auto entered = enter(id, node::SandboxState::paused, node::SandboxState::running);
    if (!entered.ok()) co_return entered.error();
    co_return **entered;
  }

  asio::awaitable<Result<node::CheckpointInfo>> checkpoint(std::string id, std::string name,
                                                           bool with_memory) override {
    last_with_memory = with_memory;
    const auto done = outcome(id);
    if (!done.ok()) co_return done.error();
    node::CheckpointInfo info;
    info.id = std::string(19, 'c') + static_cast<char>('a' + kept.infos.size());
    info.name = std::move(name);
    info.sandbox_id = id;
    info.created_at =
        make("").started_at + std::chrono::nanoseconds(kept.infos.size() / 2);  // by twos at the same time
    kept.infos.push_back(info);
    std::ranges::sort(kept.infos, [](const auto& a, const auto& b) {
      return a.created_at != b.created_at ? a.created_at > b.created_at : a.id < b.id;
    });
    co_return info;
  }

  asio::awaitable<Result<std::vector<Result<node::SandboxInfo>>>> fork(
      std::string id, std::size_t count, std::chrono::seconds timeout) override {
    last_timeout = timeout;
    const auto done = outcome(id);
    if (!done.ok()) co_return done.error();
    std::vector<Result<node::SandboxInfo>> forks;
    for (std::size_t i = 0; i < count; ++i) {
      if (i == fails_at_fork)
        forks.push_back(make_error(ErrorCode::deadline_exceeded, "the guest does not answer"));
      else
        forks.push_back(make("f" + std::to_string(i)));
    }
    co_return forks;
  }

  asio::awaitable<Result<node::SandboxInfo>> rollback(std::string id, std::string checkpoint) override {
    const auto done = outcome(id);
    if (!done.ok()) co_return done.error();
    const auto found = kept.find(checkpoint);
    if (!found.ok()) co_return make_error(ErrorCode::invalid_argument, "no such snapshot", checkpoint);
    co_return *get(id);
  }

  asio::awaitable<Result<void>> set_timeout(std::string id, std::chrono::seconds timeout) override {
    last_timeout = timeout;
    co_return outcome(id);
  }

  asio::awaitable<Result<void>> set_egress(std::string id, node::EgressRules egress) override {
    const auto done = outcome(id);
    if (done.ok()) std::ranges::find(infos, id, &node::SandboxInfo::id)->network.egress = std::move(egress);
    co_return done;
  }

  asio::awaitable<Result<void>> extend(std::string id, std::chrono::seconds duration) override {
    last_timeout = duration;
    co_return outcome(id);
  }

  asio::awaitable<Result<void>> kill(std::string id) override {
    auto result = outcome(id);
    if (result.ok()) std::erase_if(infos, [&](const auto& info) { return info.id == id; });
    co_return result;
  }

  asio::awaitable<Result<std::unique_ptr<Stream>>> open_port(std::string id, std::uint16_t port) override {
    ++dials;
    if (error) co_return *error;
    const auto info = get(id);
    if (!info.ok()) co_return info.error();
    if (!ports.contains(port)) co_return make_error(ErrorCode::unavailable, "nothing listens there");
    co_return co_await http::connect_tcp("127.0.0.1", ports.at(port), std::chrono::seconds(10));
  }

  asio::awaitable<Result<std::vector<node::Metric>>> metrics(std::string id, node::TimePoint first,
                                                             node::TimePoint last) override {
    const auto done = outcome(id);
    if (!done.ok()) co_return done.error();
    std::vector<node::Metric> found;
    for (const node::Metric& metric : samples[id])
      if (metric.at >= first && metric.at < last + std::chrono::seconds(1)) found.push_back(metric);
    co_return found;
  }

  asio::awaitable<std::map<std::string, node::Metric>> latest_metrics(std::vector<std::string> ids) override {
    last_ids = ids;
    std::map<std::string, node::Metric> latest;
    for (const std::string& id : ids)
      if (!samples[id].empty()) latest.emplace(id, samples[id].back());
    co_return latest;
  }

  asio::awaitable<Result<std::vector<node::LogEntry>>> logs(std::string id, node::TimePoint first) override {
    const auto done = outcome(id);
    if (!done.ok()) co_return done.error();
    std::vector<node::LogEntry> found;
    for (const node::LogEntry& entry : entries)
      if (entry.at >= first) found.push_back(entry);
    co_return found;
  }

  Status status() const override { return current; }
  node::Checkpoints& checkpoints() override { return kept; }

  void shut_down() override { infos.clear(); }

  static node::SandboxInfo make(std::string id) {
    node::SandboxInfo info;
    info.id = std::move(id);
    info.template_id = "ssssssssssssssssssss";
    info.template_name = "base";
    info.state = node::SandboxState::running;
    info.started_at = node::TimePoint(std::chrono::milliseconds(1767323045678));  // 2026-01-02T03:04:05.678Z
    info.end_at = info.started_at + std::chrono::minutes(5);
    info.vcpu_count = 2;
    info.memory_mib = 512;
    info.disk_mib = 1024;
    info.envd_version = "0.5.7";
    info.access_token = "secret-token";
    return info;
  }

  std::vector<node::SandboxInfo> infos;
  std::map<std::string, std::vector<node::Metric>> samples;
  std::vector<node::LogEntry> entries;  ///< of every sandbox
  std::vector<std::string> last_ids;
  MemoryCheckpoints kept;
  std::map<std::uint16_t, std::uint16_t> ports;  ///< of every sandbox: the guest's to this machine's
  std::optional<node::CreateRequest> last_create;
  std::optional<std::chrono::seconds> last_timeout;
  std::optional<PauseOptions> last_pause;
  std::optional<bool> last_with_memory;
  std::size_t fails_at_fork = SIZE_MAX;
  Status current;
  std::optional<Error> error;
  int dials = 0;

 private:
  Result<node::SandboxInfo*> enter(const std::string& id, node::SandboxState from, node::SandboxState to) {
    CUBE_TRY(outcome(id));
    const auto found = std::ranges::find(infos, id, &node::SandboxInfo::id);
    if (found->state != from) return make_error(ErrorCode::conflict, "not in the state for that", id);
    found->state = to;
    return &*found;
  }

  Result<void> outcome(const std::string& id) const {
    if (error) return *error;
    if (!get(id).ok()) return make_error(ErrorCode::not_found, "no such sandbox", id);
    return {};
  }
};

}  // namespace cube::test
