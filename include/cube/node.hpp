// node: every sandbox of this host (Cubelet in CubeSandbox): lifecycle, deadlines, admission, persistence.
//
// A sandbox runs, or is paused: on disk, without a machine. A running one can be captured at any moment,
// which stops it for as long as it takes to copy what it has changed: as a checkpoint (E2B calls it a
// snapshot) that outlives it, or to be forked. Sandboxes are cloned from templates and from checkpoints
// alike.
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
#include "node/event_log.hpp"
#include "node/guest_client.hpp"
#include "node/host.hpp"
#include "node/metrics.hpp"
#include "node/store.hpp"

namespace cube::node {

using Clock = std::chrono::system_clock;
using TimePoint = Clock::time_point;

/// The states of a sandbox; lifecycle.hpp has the table of transitions.
enum class SandboxState { creating, running, pausing, paused, resuming, killing, dead };

/// "creating", "running", …
std::string_view to_string(SandboxState state);

inline constexpr std::chrono::seconds longest_timeout{24 * 3600};

/// What a sandbox may reach outside. There is no network yet, so nothing at all: what is denied is only kept.
struct EgressRules {
  std::vector<std::string> deny_out;  ///< IP addresses and CIDR blocks, as they were given
};

struct NetworkPolicy {
  bool allow_public_traffic = true;  ///< false: its ports, except envd's, ask for the traffic access token
  std::string mask_request_host;     ///< the Host its servers see, with ${PORT} for the port; empty: as sent
  EgressRules egress;
};

struct CreateRequest {
  std::string template_ref;  ///< id, name or name:tag
  std::chrono::seconds timeout{300};
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> env_vars;
  bool auto_pause = false;        ///< at the deadline it is paused instead of killed
  bool auto_pause_memory = true;  ///< false: that pause keeps the disk only
  bool auto_resume = false;       ///< traffic for it resumes it
  NetworkPolicy network;
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
  NetworkPolicy network;
  std::string traffic_access_token;  ///< secret; empty where public traffic is allowed
  bool auto_pause = false;
  bool auto_pause_memory = true;
  bool auto_resume = false;
  bool paused_with_memory = true;  ///< of a paused one: false if resuming boots it
  bool agent_silent = false;       ///< of a paused one: its agent did not answer when it was resumed last

  /// Another number, another machine: it counts resumes and rollbacks. Connections into the one before are
  /// dead, even if nobody has noticed yet.
  std::uint64_t incarnation = 0;
};

/// A sandbox at one moment, kept on disk. Immutable; sandboxes are cloned from it as from a template.
struct CheckpointInfo {
  std::string id;    ///< 20 characters of [a-z0-9]
  std::string name;  ///< may be empty; the newest with a name has it
  std::string sandbox_id;
  std::string template_id;    ///< of the sandbox
  std::string template_name;  ///< of the sandbox
  std::string parent_id;      ///< the checkpoint it descends from; empty: straight from the template
  TimePoint created_at;
  std::uint32_t vcpu_count = 0;
  std::uint64_t memory_mib = 0;
  std::uint64_t disk_mib = 0;
};

/// What a sandbox is cloned from.
struct CloneSource {
  std::string template_id;
  std::string template_name;
  std::string checkpoint_id;  ///< empty: a template
  snapshot::SnapshotPtr snapshot;
};

/// The checkpoints of this host. A reference is an id or a name, or one of them with the tag "default" or
/// "latest".
class Checkpoints {
 public:
  virtual ~Checkpoints() = default;
  virtual std::vector<CheckpointInfo> list() const = 0;  ///< newest first; ties by id
  virtual Result<CheckpointInfo> find(std::string_view reference) const = 0;

  /// What to clone. `corrupt` with the reason if its files are damaged.
  virtual Result<CloneSource> source(std::string_view reference) const = 0;

  /// Sandboxes cloned from it go on; what descends from it keeps what it needs.
  virtual asio::awaitable<Result<void>> remove(std::string reference) = 0;
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

  /// The same without a copy, or null. Not to be kept over a suspension.
  virtual const SandboxInfo* peek(std::string_view id) const = 0;

  /// Every running or paused sandbox, in no order and without copies.
  virtual void for_each(const std::function<void(const SandboxInfo&)>& visit) const = 0;

  /// Every running or paused sandbox, newest first; ties by id.
  virtual std::vector<SandboxInfo> list() const = 0;

  struct ResumeOptions {
    std::chrono::seconds timeout{300};

    /// False: it boots from its disk, also if memory was kept. What its programs had not written to the disk
    /// is lost then, as in a power cut.
    bool with_memory = true;
  };

  /// Makes the deadline of a running sandbox at least now + timeout; a paused one is resumed with that
  /// deadline. `resumed` tells which.
  struct Connected {
    SandboxInfo info;
    bool resumed = false;
  };
  virtual asio::awaitable<Result<Connected>> connect(std::string id, ResumeOptions options) = 0;

  /// Memory (or, without, the file systems alone) and disk go to disk, the machine goes. Returns when that is
  /// durable. `conflict` unless it runs; after any other error it runs on.
  struct PauseOptions {
    bool with_memory = true;             ///< false: resuming boots it
    bool require_healthy_guest = false;  ///< `unavailable` if its agent does not answer
  };
  virtual asio::awaitable<Result<void>> pause(std::string id, PauseOptions options) = 0;

  /// `conflict` unless it is paused; after any other error it still is.
  virtual asio::awaitable<Result<SandboxInfo>> resume(std::string id, ResumeOptions options) = 0;

  /// Keeps the sandbox as it is now; it goes on. A name is taken from the checkpoint that had it.
  /// Without memory, what is cloned from it is booted.
  virtual asio::awaitable<Result<CheckpointInfo>> checkpoint(std::string id, std::string name,
                                                             bool with_memory) = 0;

  /// `count` sandboxes that are copies of this one but for their identity; it goes on. `conflict` unless it
  /// runs. One outcome for each.
  virtual asio::awaitable<Result<std::vector<Result<SandboxInfo>>>> fork(std::string id, std::size_t count,
                                                                         std::chrono::seconds timeout) = 0;

  /// The sandbox becomes what it was at a checkpoint: of its own, or one it descends from (else
  /// `invalid_argument`). The old machine runs until the new one is ready, and on if that fails.
  virtual asio::awaitable<Result<SandboxInfo>> rollback(std::string id, std::string checkpoint) = 0;

  /// Sets the deadline to now + timeout, earlier or later; zero or less is now.
  virtual asio::awaitable<Result<void>> set_timeout(std::string id, std::chrono::seconds timeout) = 0;

  /// Replaces what the sandbox may reach outside.
  virtual asio::awaitable<Result<void>> set_egress(std::string id, EgressRules egress) = 0;

  /// Only ever extends.
  virtual asio::awaitable<Result<void>> extend(std::string id, std::chrono::seconds duration) = 0;

  /// Returns when the sandbox is gone for every other call; teardown goes on behind.
  virtual asio::awaitable<Result<void>> kill(std::string id) = 0;

  /// A byte stream to a TCP port inside the guest (also one bound to 127.0.0.1). Port 49983 is envd.
  /// Resumes a paused sandbox that asked for it. `not_found`: no such running sandbox; `unavailable`: nothing
  /// listens on the port.
  virtual asio::awaitable<Result<std::unique_ptr<Stream>>> open_port(std::string id, std::uint16_t port) = 0;

  /// Samples of these seconds, both included, oldest first. An end at most MetricHistory::sample_interval ago
  /// is the present: then, if the last sample is older than that, the guest is asked for one; if it does not
  /// answer soon there is none. A paused sandbox keeps what it has until the daemon ends.
  virtual asio::awaitable<Result<std::vector<Metric>>> metrics(std::string id, TimePoint first,
                                                               TimePoint last) = 0;

  /// The newest sample of each; of unknown ones, and of those that have none, nothing.
  virtual asio::awaitable<std::map<std::string, Metric>> latest_metrics(std::vector<std::string> ids) = 0;

  /// What happened to it from `first` on, and inside, oldest first. What happened inside is in the guest's
  /// memory: of a paused sandbox it is not there; that a running guest does not tell is an entry of its own.
  virtual asio::awaitable<Result<std::vector<LogEntry>>> logs(std::string id, TimePoint first) = 0;

  virtual Checkpoints& checkpoints() = 0;

  /// How many there are of what, and whether the pools are of use.
  struct Status {
    struct Pool {
      std::size_t waiting = 0;
      std::size_t wanted = 0;  ///< waiting, if there is room and time for it
      std::uint64_t hits = 0, misses = 0;
    };
    std::size_t running = 0;
    std::size_t paused = 0;
    Pool warm;
    Pool shells;
  };
  virtual Status status() const = 0;

  /// Ends every running sandbox; for the daemon's end. Teardown goes on on the workers.
  virtual void shut_down() = 0;
};

struct Settings {
  std::shared_ptr<vmm::ShellMaker> shells;
  std::string kernel_path;        ///< the guest's vmlinux, for sandboxes that were paused without memory
  std::string scratch_directory;  ///< where clones' written blocks go
  std::string paused_directory;   ///< holds a snapshot for each paused sandbox, named by its id; ours alone
  std::string checkpoint_directory;  ///< the same for checkpoints
  std::string node_tag;              ///< node_tag_length characters of [a-z0-9]
  /// Admission: the sum of all sandboxes' nominal memory. Clones share most of theirs with the template, so
  /// it may exceed what the host has; a create is also refused when the host is short of available memory.
  std::uint64_t memory_limit_mib = 0;
  std::uint32_t sandbox_limit = 10'000;
  std::chrono::milliseconds guest_timeout{20'000};  ///< how long a clone may take to become itself
  std::chrono::milliseconds boot_timeout{120'000};  ///< the same of one that is booted
  std::size_t shell_pool_limit = 16;                ///< VM shells made ahead of time, in all
  std::size_t warm_pool_limit = 8;                  ///< sandboxes made ahead of time for a template in demand
  double warm_memory_share = 0.1;                   ///< of the host's memory, for those of all templates
  asio::any_io_executor reapers;                    ///< where machines end; empty: the workers
  std::function<void(const CloneSource&)> on_created;  ///< a sandbox was cloned from it
};

/// Opens what is paused and the checkpoints; removes what an earlier run of the daemon left in the store
/// otherwise and reports it. `find` gets an id, a name or name:tag of a template. `workers` run what blocks.
/// References and executors must outlive the object.
Result<std::shared_ptr<Sandboxes>> make_sandboxes(vmm::Executors executors, Store& store,
                                                  std::function<Result<CloneSource>(std::string_view)> find,
                                                  Settings settings);

}  // namespace cube::node
