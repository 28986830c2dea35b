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

  Result<node::CloneSource> source(std::string_view reference) override {
    const auto info = find(reference);
    if (!info.ok()) return info.error();
    return node::CloneSource{info->id, info->name, nullptr};
  }

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

class MemorySandboxes final : public node::Sandboxes {
 public:
  asio::awaitable<Result<node::SandboxInfo>> create(node::CreateRequest request) override {
    last_create = request;
    if (error) co_return *error;
    if (request.template_ref != "base") co_return make_error(ErrorCode::not_found, "no such template");
    node::SandboxInfo info = make("i" + std::string(19, 'a') + static_cast<char>('a' + infos.size()));
    info.metadata = std::move(request.metadata);
    info.end_at = info.started_at + request.timeout;
    infos.push_back(info);
    co_return info;
  }

  Result<node::SandboxInfo> get(std::string_view id) const override {
    const auto found = std::ranges::find(infos, id, &node::SandboxInfo::id);
    if (found != infos.end()) return *found;
    return make_error(ErrorCode::not_found, "no such sandbox", std::string(id));
  }

  std::vector<node::SandboxInfo> list() const override { return infos; }

  asio::awaitable<Result<Connected>> connect(std::string id, std::chrono::seconds timeout) override {
    last_timeout = timeout;
    if (error) co_return *error;
    auto info = get(id);
    if (!info.ok()) co_return info.error();
    co_return Connected{*info, info->state == node::SandboxState::paused};
  }

  asio::awaitable<Result<void>> set_timeout(std::string id, std::chrono::seconds timeout) override {
    last_timeout = timeout;
    co_return outcome(id);
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
  std::map<std::uint16_t, std::uint16_t> ports;  ///< of every sandbox: the guest's to this machine's
  std::optional<node::CreateRequest> last_create;
  std::optional<std::chrono::seconds> last_timeout;
  std::optional<Error> error;
  int dials = 0;

 private:
  Result<void> outcome(const std::string& id) const {
    if (error) return *error;
    if (!get(id).ok()) return make_error(ErrorCode::not_found, "no such sandbox", id);
    return {};
  }
};

}  // namespace cube::test
