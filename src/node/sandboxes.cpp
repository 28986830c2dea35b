// Every sandbox of this host, and the way of each from creation to its end.
#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cube/node.hpp>
#include <unordered_map>

#include "node/admission.hpp"
#include "node/lifecycle.hpp"

namespace cube::node {

std::string_view to_string(SandboxState state) {
  switch (state) {
    case SandboxState::creating: return "creating";
    case SandboxState::running: return "running";
    case SandboxState::pausing: return "pausing";
    case SandboxState::paused: return "paused";
    case SandboxState::resuming: return "resuming";
    case SandboxState::killing: return "killing";
    case SandboxState::dead: return "dead";
  }
  return "dead";
}

namespace {

using asio::awaitable;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds dial_timeout{10'000};

std::int64_t to_ms(TimePoint time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

struct Sandbox {
  explicit Sandbox(const asio::any_io_executor& loop) : deadline(loop) {}

  SandboxInfo info;
  std::shared_ptr<vmm::Machine> machine;
  std::shared_ptr<void> reservation;
  asio::steady_timer deadline;
};
using SandboxPtr = std::shared_ptr<Sandbox>;

Error not_found(std::string_view id) {
  return make_error(ErrorCode::not_found, "sandbox '" + std::string(id) + "' not found");
}

class SandboxesImpl final : public Sandboxes, public std::enable_shared_from_this<SandboxesImpl> {
 public:
  SandboxesImpl(vmm::Executors executors, Store& store,
                std::function<Result<CloneSource>(std::string_view)> find, Settings settings)
      : executors_(std::move(executors)),
        store_(store),
        find_(std::move(find)),
        settings_(std::move(settings)),
        admission_({settings_.memory_limit_mib, settings_.sandbox_limit}) {}

  awaitable<Result<SandboxInfo>> create(CreateRequest request) override {
    const auto self = shared_from_this();
    auto source = find_(request.template_ref);
    if (!source) co_return std::move(source).error();
    auto reservation = admission_.reserve(source->snapshot->shape().memory_bytes >> 20);
    if (!reservation) co_return std::move(reservation).error();

    const auto sandbox = std::make_shared<Sandbox>(executors_.loop);
    sandbox->reservation = std::move(*reservation);
    describe(*sandbox, request, *source);
    sandboxes_.emplace(sandbox->info.id, sandbox);
    const auto up = co_await bring_up(sandbox, std::move(*source), std::move(request.env_vars));
    if (!up.ok()) {
      log(LogLevel::warning, "node", "a clone did not come up",
          {{"sandbox", sandbox->info.id}, {"error", up.error().describe()}});
      bury(sandbox);
      co_return up.error();
    }
    co_return sandbox->info;
  }

  Result<SandboxInfo> get(std::string_view id) const override {
    const auto sandbox = find(id);
    if (!sandbox) return not_found(id);
    return sandbox->info;
  }

  std::vector<SandboxInfo> list() const override {
    std::vector<SandboxInfo> infos;
    for (const auto& [id, sandbox] : sandboxes_)
      if (visible(*sandbox)) infos.push_back(sandbox->info);
    std::ranges::sort(infos, [](const SandboxInfo& a, const SandboxInfo& b) {
      return a.started_at != b.started_at ? a.started_at > b.started_at : a.id < b.id;
    });
    return infos;
  }

  awaitable<Result<Connected>> connect(std::string id, seconds timeout) override {
    const auto self = shared_from_this();
    const auto extended = co_await extend(id, timeout);
    if (!extended.ok()) co_return extended.error();
    const auto sandbox = find(id);
    if (!sandbox) co_return not_found(id);
    co_return Connected{sandbox->info, false};
  }

  awaitable<Result<void>> set_timeout(std::string id, seconds timeout) override {
    const auto self = shared_from_this();
    if (timeout <= seconds(0)) co_return co_await kill(std::move(id));
    co_return co_await move_deadline(std::move(id), Clock::now() + timeout);
  }

  awaitable<Result<void>> extend(std::string id, seconds duration) override {
    const auto self = shared_from_this();
    const auto sandbox = find(id);
    if (!sandbox) co_return not_found(id);
    const TimePoint end = Clock::now() + duration;
    if (end <= sandbox->info.end_at) co_return Result<void>{};
    co_return co_await move_deadline(std::move(id), end);
  }

  awaitable<Result<void>> kill(std::string id) override {
    const auto self = shared_from_this();
    const auto sandbox = find(id);
    if (!sandbox) co_return not_found(id);
    enter(*sandbox, SandboxState::killing);
    bury(sandbox);
    co_return co_await run_on(executors_.workers, [&] { return store_.remove_sandbox(id); });
  }

  awaitable<Result<std::unique_ptr<Stream>>> open_port(std::string id, std::uint16_t port) override {
    const auto sandbox = find(id);
    if (!sandbox || sandbox->info.state != SandboxState::running) co_return not_found(id);
    GuestClient guest(sandbox->machine);
    auto stream = co_await guest.open_port(port, dial_timeout);
    // A sandbox that died meanwhile is not one whose port is closed.
    if (!stream && sandbox->info.state != SandboxState::running) co_return not_found(id);
    co_return stream;
  }

  void shut_down() override {
    for (const auto& [id, sandbox] : std::exchange(sandboxes_, {})) {
      sandbox->deadline.cancel();
      retire(*sandbox);
      if (const auto removed = store_.remove_sandbox(id); !removed.ok())
        log(LogLevel::warning, "node", removed.error().describe(), {{"sandbox", id}});
    }
  }

 private:
  static bool visible(const Sandbox& sandbox) {
    return sandbox.info.state != SandboxState::creating && sandbox.info.state != SandboxState::dead;
  }

  SandboxPtr find(std::string_view id) const {
    const auto found = sandboxes_.find(std::string(id));
    return found != sandboxes_.end() && visible(*found->second) ? found->second : nullptr;
  }

  /// Every change of state goes through the table.
  static void enter(Sandbox& sandbox, SandboxState next) {
    if (!may_become(sandbox.info.state, next))
      log(LogLevel::error, "node", "a transition that should not be",
          {{"sandbox", sandbox.info.id},
           {"from", std::string(to_string(sandbox.info.state))},
           {"to", std::string(to_string(next))}});
    sandbox.info.state = next;
  }

  void describe(Sandbox& sandbox, CreateRequest& request, const CloneSource& source) const {
    SandboxInfo& info = sandbox.info;
    const snapshot::Shape& shape = source.snapshot->shape();
    info.id = make_sandbox_id(settings_.node_tag);
    info.template_id = source.template_id;
    info.template_name = source.template_name;
    info.started_at = Clock::now();
    info.end_at = info.started_at + std::min(request.timeout, longest_timeout);
    info.vcpu_count = shape.vcpu_count;
    info.memory_mib = shape.memory_bytes >> 20;
    info.disk_mib = shape.disk_bytes >> 20;
    info.metadata = std::move(request.metadata);
    info.envd_version = guest::envd_version;
    info.access_token = random_hex(32);
  }

  awaitable<Result<void>> bring_up(SandboxPtr sandbox, CloneSource source,
                                   std::map<std::string, std::string> env_vars) {
    const auto started = std::chrono::steady_clock::now();
    auto machine = co_await run_on(executors_.workers, [&] { return start_clone(*sandbox, source); });
    if (!machine) co_return std::move(machine).error();
    sandbox->machine = std::move(*machine);
    const auto restored = std::chrono::steady_clock::now();

    GuestClient guest(sandbox->machine);
    const auto initialised =
        co_await guest.init(identity_of(*sandbox, std::move(env_vars)), settings_.guest_timeout);
    if (!initialised.ok()) co_return initialised.error();
    const auto shaken_hands = std::chrono::steady_clock::now();

    if (sandbox->info.state != SandboxState::creating)
      co_return make_error(ErrorCode::unavailable, "the daemon shut down while the sandbox was created",
                           sandbox->info.id);
    enter(*sandbox, SandboxState::running);
    arm_deadline(sandbox);
    const SandboxRow row = row_of(*sandbox);
    const auto saved = co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row); });
    if (!saved.ok()) co_return saved.error();
    if (sandbox->info.state != SandboxState::running)
      co_return make_error(ErrorCode::unavailable, "the sandbox ended while it was created",
                           sandbox->info.id);
    const auto ms = [](auto duration) {
      return std::to_string(std::chrono::duration<double, std::milli>(duration).count());
    };
    log(LogLevel::info, "node", "sandbox created",
        {{"sandbox", sandbox->info.id},
         {"template", source.template_id},
         {"restore_ms", ms(restored - started)},
         {"handshake_ms", ms(shaken_hands - restored)}});
    co_return Result<void>{};
  }

  /// On a worker. The machine's last owner hands it back to the workers: ending it blocks.
  Result<std::shared_ptr<vmm::Machine>> start_clone(Sandbox& sandbox, const CloneSource& source) {
    vmm::MachineConfig config;
    config.generation_id = random_generation_id();
    config.new_generation = true;
    config.on_stop = [weak = weak_from_this(), id = sandbox.info.id](vmm::StopReason reason) {
      if (const auto self = weak.lock()) self->machine_stopped(id, reason);
    };
    auto machine =
        source.snapshot->clone(settings_.kvm_fd, executors_, std::move(config), settings_.scratch_directory);
    if (!machine) return std::move(machine).error();
    std::shared_ptr<vmm::Machine> shared(
        machine->release(),
        [workers = executors_.workers](vmm::Machine* last) { asio::post(workers, [last] { delete last; }); });
    CUBE_TRY(shared->resume());
    return shared;
  }

  static guest::InitRequest identity_of(const Sandbox& sandbox, std::map<std::string, std::string> env_vars) {
    guest::InitRequest request;
    request.sandbox_id = sandbox.info.id;
    request.template_id = sandbox.info.template_id;
    request.entropy_hex = random_hex(64);
    request.unix_time_ns =
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
    request.access_token = sandbox.info.access_token;
    request.env_vars = std::move(env_vars);
    request.new_identity = true;
    return request;
  }

  static SandboxRow row_of(const Sandbox& sandbox) {
    return {sandbox.info.id, sandbox.info.template_id, std::string(to_string(sandbox.info.state)),
            to_ms(sandbox.info.started_at), to_ms(sandbox.info.end_at)};
  }

  awaitable<Result<void>> move_deadline(std::string id, TimePoint end) {
    const auto sandbox = find(id);
    if (!sandbox) co_return not_found(id);
    sandbox->info.end_at = end;
    arm_deadline(sandbox);
    const SandboxRow row = row_of(*sandbox);
    co_return co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row); });
  }

  void arm_deadline(const SandboxPtr& sandbox) {
    const auto left = sandbox->info.end_at - Clock::now();
    sandbox->deadline.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(left));
    sandbox->deadline.async_wait(
        [weak = weak_from_this(), id = sandbox->info.id](const asio::error_code& moved) {
          const auto self = weak.lock();
          if (moved || !self) return;
          // The wall clock may have been set meanwhile, and the deadline moved just before this ran.
          const auto sandbox = self->find(id);
          if (!sandbox) return;
          if (Clock::now() < sandbox->info.end_at) return self->arm_deadline(sandbox);
          log(LogLevel::info, "node", "sandbox reached its end of life", {{"sandbox", id}});
          self->end(id);
        });
  }

  /// The guest ended itself, broke a rule, or KVM refused to run it.
  void machine_stopped(const std::string& id, const vmm::StopReason& reason) {
    if (reason.kind == vmm::StopReason::Kind::requested) return;
    log(LogLevel::warning, "node", "the guest stopped", {{"sandbox", id}, {"reason", reason.detail}});
    end(id);
  }

  /// Kills without anybody waiting for it.
  void end(const std::string& id) {
    asio::co_spawn(executors_.loop, kill(id), [id](std::exception_ptr, Result<void> killed) {
      if (!killed.ok() && killed.error().code != ErrorCode::not_found)
        log(LogLevel::error, "node", killed.error().describe(), {{"sandbox", id}});
    });
  }

  /// Gone for every other call from here on.
  void bury(const SandboxPtr& sandbox) {
    sandbox->deadline.cancel();
    sandboxes_.erase(sandbox->info.id);
    retire(*sandbox);
  }

  /// Streams into the guest end, and the machine is given to the workers with its last user.
  static void retire(Sandbox& sandbox) {
    sandbox.info.state = SandboxState::dead;
    if (sandbox.machine) sandbox.machine->stop();
    sandbox.machine.reset();
    sandbox.reservation.reset();
  }

  vmm::Executors executors_;
  Store& store_;
  std::function<Result<CloneSource>(std::string_view)> find_;
  Settings settings_;
  Admission admission_;
  std::unordered_map<std::string, SandboxPtr> sandboxes_;
};

/// No machine outlives the daemon: whatever the store says was running is gone.
Result<void> report_lost_sandboxes(Store& store) {
  const auto rows = store.sandboxes();
  if (!rows) return rows.error();
  for (const SandboxRow& row : *rows) {
    log(LogLevel::warning, "node", "sandbox was lost when the daemon ended",
        {{"sandbox", row.id}, {"template", row.template_id}, {"state", row.state}});
    CUBE_TRY(store.remove_sandbox(row.id));
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<Sandboxes>> make_sandboxes(vmm::Executors executors, Store& store,
                                                  std::function<Result<CloneSource>(std::string_view)> find,
                                                  Settings settings) {
  CUBE_TRY(report_lost_sandboxes(store));
  return std::make_shared<SandboxesImpl>(std::move(executors), store, std::move(find), std::move(settings));
}

}  // namespace cube::node
