// node: every sandbox of this host (Cubelet in CubeSandbox): lifecycle, deadlines, admission, persistence.
//
// All functions are called on the event loop. A state is written to the store before the call that caused it
// returns.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <cube/core.hpp>
#include <cube/snapshot.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/admission.hpp"
#include "node/guest_client.hpp"
#include "node/store.hpp"

namespace cube::node {

using Clock = std::chrono::system_clock;
using TimePoint = Clock::time_point;

/// The states of a sandbox; lifecycle.hpp has the table of transitions.
enum class SandboxState { creating, running, pausing, paused, resuming, killing, dead };

/// "creating", "running", …
std::string_view to_string(SandboxState state);

inline constexpr std::chrono::seconds longest_timeout{24 * 3600};

struct CreateRequest {
  std::string template_ref;  ///< id, name or name:tag
  std::chrono::seconds timeout{300};
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> env_vars;
};

struct SandboxInfo {
  std::string id;
  std::string template_id;
  std::string template_name;  ///< the alias; may be empty
  SandboxState state = SandboxState::creating;
  TimePoint started_at;
  TimePoint end_at;
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_mib = 0;
  std::uint64_t disk_mib = 0;
  std::map<std::string, std::string> metadata;
  std::string envd_version;
  std::string access_token;  ///< the guest's envd token; secret
};

/// Errors: `not_found` for an id that does not exist (any more), `invalid_argument` with what was wrong,
/// `resource_exhausted` when the host is full, `deadline_exceeded` or `unavailable` when the guest does not
/// answer.
class Sandboxes {
 public:
  virtual ~Sandboxes() = default;

  /// Returns when the clone has its identity and answers; `not_found` names an unknown template.
  virtual asio::awaitable<Result<SandboxInfo>> create(CreateRequest request) = 0;

  /// Running (or paused) sandboxes only.
  virtual Result<SandboxInfo> get(std::string_view id) const = 0;

  /// Every running or paused sandbox, newest first; ties by id.
  virtual std::vector<SandboxInfo> list() const = 0;

  /// Makes the deadline at least now + timeout, never earlier than it was; a paused sandbox is resumed.
  /// `resumed` tells which.
  struct Connected {
    SandboxInfo info;
    bool resumed = false;
  };
  virtual asio::awaitable<Result<Connected>> connect(std::string id, std::chrono::seconds timeout) = 0;

  /// Sets the deadline to now + timeout, earlier or later; zero or less ends the sandbox now.
  virtual asio::awaitable<Result<void>> set_timeout(std::string id, std::chrono::seconds timeout) = 0;

  /// Only ever extends.
  virtual asio::awaitable<Result<void>> extend(std::string id, std::chrono::seconds duration) = 0;

  /// Returns when the sandbox is gone for every other call; teardown goes on behind.
  virtual asio::awaitable<Result<void>> kill(std::string id) = 0;

  /// A byte stream to a TCP port inside the guest (also one bound to 127.0.0.1). Port 49983 is envd.
  /// `not_found`: no such running sandbox; `unavailable`: nothing listens on the port.
  virtual asio::awaitable<Result<std::unique_ptr<Stream>>> open_port(std::string id, std::uint16_t port) = 0;

  /// Ends every sandbox; for the daemon's end. Teardown goes on on the workers.
  virtual void shut_down() = 0;
};

/// What a sandbox is cloned from.
struct CloneSource {
  std::string template_id;
  std::string template_name;
  std::shared_ptr<const snapshot::Snapshot> snapshot;
};

struct Settings {
  int kvm_fd = -1;
  std::string scratch_directory;  ///< where clones' written blocks go, in unnamed files
  std::string node_tag;           ///< node_tag_length characters of [a-z0-9]
  /// Admission: the sum of all sandboxes' nominal memory. Clones share most of theirs with the template, so
  /// it may exceed what the host has; a create is also refused when the host is short of available memory.
  std::uint64_t memory_limit_mib = 0;
  std::uint32_t sandbox_limit = 10'000;
  std::chrono::milliseconds guest_timeout{20'000};  ///< how long a clone may take to become itself
};

/// Removes what an earlier run of the daemon left in the store and reports it. `find` gets an id, a name or
/// name:tag. `workers` run what blocks. References and executors must outlive the object.
Result<std::shared_ptr<Sandboxes>> make_sandboxes(vmm::Executors executors, Store& store,
                                                  std::function<Result<CloneSource>(std::string_view)> find,
                                                  Settings settings);

}  // namespace cube::node
