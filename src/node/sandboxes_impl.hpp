// The owner of every sandbox of this host. sandboxes.cpp has finding, deadlines and ending them, creation.cpp
// how they come to be, live_operations.cpp what happens to them while they live, observation.cpp what can be
// seen of them.
#pragma once

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <cube/node.hpp>
#include <unordered_map>

#include "node/checkpoint_catalogue.hpp"
#include "node/sandbox.hpp"
#include "node/warm_pool.hpp"

namespace cube::node {

using asio::awaitable;
using SteadyClock = std::chrono::steady_clock;
using Reservation = std::shared_ptr<void>;
using snapshot::Readiness;

/// What a new machine must be told besides its ids, token, entropy and the time.
struct Identity {
  bool is_new = true;                                            ///< also a new machine-id
  std::optional<std::map<std::string, std::string>> env_vars{};  ///< none: what the guest's memory holds
};

class SandboxesImpl final : public Sandboxes, public std::enable_shared_from_this<SandboxesImpl> {
 public:
  SandboxesImpl(vmm::Executors executors, Store& store,
                std::function<Result<CloneSource>(std::string_view)> find, Settings settings);

  /// Start-up: what is paused comes back, the rest is reported and removed. Blocks.
  Result<void> load();
  void start_housekeeping();

  awaitable<Result<SandboxInfo>> create(CreateRequest request) override;
  Result<SandboxInfo> get(std::string_view id) const override;
  const SandboxInfo* peek(std::string_view id) const override;
  void for_each(const std::function<void(const SandboxInfo&)>& visit) const override;
  std::vector<SandboxInfo> list() const override;
  awaitable<Result<Connected>> connect(std::string id, ResumeOptions options) override;
  awaitable<Result<void>> pause(std::string id, PauseOptions options) override;
  awaitable<Result<SandboxInfo>> resume(std::string id, ResumeOptions options) override;
  awaitable<Result<CheckpointInfo>> checkpoint(std::string id, std::string name, bool with_memory) override;
  awaitable<Result<std::vector<Result<SandboxInfo>>>> fork(std::string id, std::size_t count,
                                                           std::chrono::seconds timeout) override;
  awaitable<Result<SandboxInfo>> rollback(std::string id, std::string checkpoint) override;
  awaitable<Result<void>> set_timeout(std::string id, std::chrono::seconds timeout) override;
  awaitable<Result<void>> set_egress(std::string id, EgressRules egress) override;
  awaitable<Result<void>> extend(std::string id, std::chrono::seconds duration) override;
  awaitable<Result<void>> kill(std::string id) override;
  awaitable<Result<std::unique_ptr<Stream>>> open_port(std::string id, std::uint16_t port) override;
  awaitable<Result<std::vector<Metric>>> metrics(std::string id, TimePoint first, TimePoint last) override;
  awaitable<std::map<std::string, Metric>> latest_metrics(std::vector<std::string> ids) override;
  awaitable<Result<std::vector<LogEntry>>> logs(std::string id, TimePoint first) override;
  Checkpoints& checkpoints() override { return checkpoints_; }
  Status status() const override;
  void shut_down() override;

 private:
  // --- sandboxes.cpp ---
  static bool visible(const Sandbox& sandbox);
  SandboxPtr find(std::string_view id) const;
  static void enter(Sandbox& sandbox, SandboxState next);
  awaitable<Result<void>> move_deadline(SandboxPtr sandbox, TimePoint end);
  awaitable<Result<void>> save(SandboxPtr sandbox);
  void arm_deadline(const SandboxPtr& sandbox);
  void reach_deadline(const SandboxPtr& sandbox);
  void machine_stopped(const std::weak_ptr<Sandbox>& sandbox, const void* machine,
                       const vmm::StopReason& reason);
  void end(const std::string& id);
  void bury(const SandboxPtr& sandbox);
  void retire(Running& running);
  std::string paused_directory(const std::string& id) const { return settings_.paused_directory + "/" + id; }
  /// With the operation's turn, or for a sandbox that is gone: the next pause writes to the same place.
  awaitable<void> remove_paused_directory(std::string id);
  awaitable<void> keep_house();
  void begin_use(const SandboxPtr& sandbox);
  awaitable<void> learn_use(SandboxPtr sandbox);

  // --- creation.cpp ---
  Result<CloneSource> source_of(std::string_view reference);
  awaitable<Result<Reservation>> reserve(const snapshot::Shape& shape);
  void describe(Sandbox& sandbox, const CloneSource& source) const;
  static void apply(Sandbox& sandbox, CreateRequest request);
  awaitable<Result<Running>> start(SandboxPtr sandbox, snapshot::SnapshotPtr snapshot,
                                   Reservation reservation, Identity identity,
                                   Readiness readiness = Readiness::to_come_up);
  Result<Running> start_machine(const SandboxPtr& sandbox, const snapshot::Snapshot& snapshot,
                                Reservation reservation, Readiness readiness);
  guest::InitRequest init_request(const Sandbox& sandbox, Identity identity) const;
  awaitable<Result<void>> come_up(SandboxPtr sandbox, CloneSource source, Reservation reservation,
                                  Identity identity, Readiness readiness = Readiness::to_come_up);
  awaitable<Result<void>> claim(SandboxPtr sandbox);
  awaitable<Result<void>> go_live(SandboxPtr sandbox);
  void refill_warm_pool_later();
  void refill_warm_pool_after(std::chrono::milliseconds delay, SteadyClock::time_point latest);
  void refill_warm_pool();
  awaitable<void> warm_one(CloneSource source, Reservation reservation);
  void discard(const std::vector<SandboxPtr>& sandboxes);

  // --- live_operations.cpp ---
  awaitable<Result<void>> pause_running(SandboxPtr sandbox, PauseOptions options);
  awaitable<Result<void>> resume_paused(SandboxPtr sandbox, ResumeOptions options);
  awaitable<void> forget_pause(SandboxPtr sandbox);
  awaitable<Result<void>> make_running(SandboxPtr sandbox, ResumeOptions options);
  awaitable<Result<snapshot::SnapshotPtr>> capture_running(SandboxPtr sandbox, bool with_memory);
  void merge_behind(const SandboxPtr& sandbox);
  awaitable<void> merge(SandboxPtr sandbox, snapshot::SnapshotPtr before);

  // --- observation.cpp ---
  awaitable<void> sample(SandboxPtr sandbox);

  vmm::Executors executors_;
  Store& store_;
  std::function<Result<CloneSource>(std::string_view)> find_template_;
  const Settings settings_;
  const asio::any_io_executor reapers_;
  Admission admission_;
  CheckpointCatalogue checkpoints_;
  snapshot::ShellPool shells_;
  WarmPool warm_;
  AsyncSemaphore observing_;  // guests that are asked for what they use or what happened in them
  AsyncSemaphore coming_up_;  // machines whose guests become themselves; more at once would only be slower
  asio::steady_timer housekeeping_;
  asio::steady_timer refill_;
  bool refill_due_ = false;
  std::unordered_map<std::string, SandboxPtr> sandboxes_;
  std::size_t creating_ = 0;  // requests in progress: the warm pool is refilled when there are none to delay
  bool warming_ = false;
  bool shut_down_ = false;
};

/// Milliseconds since then, for the log.
std::string ms_since(SteadyClock::time_point start);

Error sandbox_not_found(std::string_view id);

/// `conflict`: what the sandbox would have to be, and what it is.
Error wrong_state(const Sandbox& sandbox, std::string_view wanted);

}  // namespace cube::node
