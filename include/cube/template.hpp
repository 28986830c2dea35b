// template: templates are machines that were booted, warmed and snapshotted; every sandbox is a clone of one.
//
// All functions are called on the event loop.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <cube/core.hpp>
#include <cube/node.hpp>
#include <cube/vmm.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace cube::templates {

inline constexpr std::uint64_t least_memory_mib = 128;
inline constexpr std::uint64_t most_memory_mib = 64 << 10;
inline constexpr std::uint64_t most_disk_mib = 1 << 20;

struct TemplateInfo {
  std::string id;    ///< 20 characters of [a-z0-9]
  std::string name;  ///< unique; a new build under the same name replaces the old one once it is ready
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_mib = 0;
  std::uint64_t disk_mib = 0;
  std::uint64_t spawn_count = 0;
  std::chrono::system_clock::time_point created_at;
};

struct BuildRequest {
  std::string name;
  std::string rootfs_path;  ///< an ext4 image with cube-agent in it; copied, not kept
  std::string
      ready_command;  ///< run as root again and again until it succeeds; empty: the agent answering is enough
  std::uint32_t vcpu_count = 2;
  std::uint64_t memory_mib = 512;
  std::uint64_t disk_mib = 0;  ///< size of /dev/vda; 0: that of the image
};

class Templates {
 public:
  virtual ~Templates() = default;

  virtual std::vector<TemplateInfo> list() const = 0;

  /// By id, name, or name:tag with the tag "default" or "latest".
  virtual Result<TemplateInfo> find(std::string_view reference) const = 0;

  /// Boots the image, waits until its services answer, snapshots it. `progress` gets one line a step, on the
  /// loop. A build that fails leaves nothing behind.
  virtual asio::awaitable<Result<TemplateInfo>> build(BuildRequest request,
                                                      std::function<void(std::string_view)> progress) = 0;

  /// What to clone; see find. `corrupt` with the reason if the template's files are damaged.
  virtual Result<node::CloneSource> source(std::string_view reference) const = 0;

  /// A sandbox was cloned from it.
  virtual void count_spawn(std::string_view id) = 0;

  /// `not_found`; files go when the last sandbox that maps them is gone.
  virtual asio::awaitable<Result<void>> remove(std::string reference) = 0;
};

struct Settings {
  std::shared_ptr<vmm::ShellMaker> shells;
  std::string directory;          ///< holds one directory a template, named by its id; ours alone
  std::string scratch_directory;  ///< see snapshot::open
  std::string kernel_path;        ///< the guest's vmlinux
  std::chrono::seconds boot_timeout{120};
  std::chrono::seconds ready_timeout{600};  ///< also for what an image wants run before it is captured
};

/// Opens every template in the store; a damaged one is reported and refuses to be cloned. Removes what
/// interrupted builds left. Blocks. References and executors must outlive the object.
Result<std::shared_ptr<Templates>> make_templates(vmm::Executors executors, node::Store& store,
                                                  Settings settings);

}  // namespace cube::templates
