// Finding sandboxes, their deadlines, and the end of each.
#include <algorithm>
#include <asio/post.hpp>

#include "node/lifecycle.hpp"
#include "node/sandbox_record.hpp"
#include "node/sandboxes_impl.hpp"

namespace cube::node {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Phase = snapshot::Witness::Phase;

namespace {

constexpr milliseconds dial_timeout{10'000};
constexpr seconds housekeeping_interval{1};
constexpr seconds first_use{1};
constexpr int intervals_a_minute = 60;
constexpr std::size_t guests_observed_at_once = 16;

/// Traffic that resumes a sandbox is worth at least that much of its time.
constexpr seconds least_resumed_timeout{300};

void note_deadline(Sandbox& sandbox) {
  const auto seconds_left = std::chrono::ceil<seconds>(sandbox.info.end_at - Clock::now());
  EventLog::Fields fields;
  fields["seconds"] = std::to_string(seconds_left.count());
  sandbox.events.add_or_replace("deadline moved", std::move(fields));
}

/// Whether its paused snapshot counts: until it has been resumed.
bool is_on_disk(const Sandbox& sandbox) {
  return sandbox.info.state == SandboxState::paused || sandbox.info.state == SandboxState::resuming;
}

}  // namespace

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

std::string ms_since(SteadyClock::time_point start) {
  return std::to_string(std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count());
}

Error sandbox_not_found(std::string_view id) {
  return make_error(ErrorCode::not_found, "sandbox '" + std::string(id) + "' not found");
}

Error wrong_state(const Sandbox& sandbox, std::string_view wanted) {
  return make_error(ErrorCode::conflict, "sandbox '" + sandbox.info.id + "' is " +
                                             std::string(to_string(sandbox.info.state)) + ", not " +
                                             std::string(wanted));
}

SandboxesImpl::SandboxesImpl(vmm::Executors executors, Store& store,
                             std::function<Result<CloneSource>(std::string_view)> find, Settings settings)
    : executors_(std::move(executors)),
      store_(store),
      find_template_(std::move(find)),
      settings_(std::move(settings)),
      reapers_(settings_.reapers ? settings_.reapers : executors_.workers),
      admission_({settings_.memory_limit_mib, settings_.sandbox_limit}),
      checkpoints_(executors_, store, settings_.checkpoint_directory, settings_.scratch_directory,
                   [this](const std::string& gone, const std::string& parent) {
                     for (const auto& [id, sandbox] : sandboxes_)
                       if (sandbox->checkpoint_id == gone) sandbox->checkpoint_id = parent;
                   }),
      shells_(settings_.shells, executors_.workers, settings_.shell_pool_limit),
      warm_(settings_.warm_pool_limit),
      observing_(executors_.loop, guests_observed_at_once),
      coming_up_(executors_.loop, 2 * processors()),
      housekeeping_(executors_.loop),
      refill_(executors_.loop) {}

Result<void> SandboxesImpl::load() {
  CUBE_TRY(checkpoints_.load());
  CUBE_TRY(snapshot::remove_leftovers(settings_.paused_directory));
  const auto rows = store_.sandboxes();
  if (!rows) return rows.error();
  for (const SandboxRow& row : *rows) {
    const auto sandbox = std::make_shared<Sandbox>(executors_.loop);
    const auto known = from_row(row, *sandbox);
    if (row.state != to_string(SandboxState::paused) || !known) {
      log(LogLevel::warning, "node", "sandbox was lost when the daemon ended",
          {{"sandbox", row.id}, {"template", row.template_id}, {"state", row.state}});
      CUBE_TRY(store_.remove_sandbox(row.id));
      continue;
    }
    sandbox->info.state = SandboxState::paused;
    auto snapshot = snapshot::open(paused_directory(row.id), settings_.scratch_directory);
    if (snapshot) {
      sandbox->snapshot = std::move(*snapshot);
    } else {
      log(LogLevel::error, "node", "a paused sandbox cannot be resumed",
          {{"sandbox", row.id}, {"error", snapshot.error().describe()}});
      sandbox->damage = std::move(snapshot).error();
    }
    sandboxes_.emplace(row.id, sandbox);
  }
  return snapshot::remove_unknown(
      settings_.paused_directory, [&](const std::string& id) { return sandboxes_.contains(id); }, "pause");
}

Result<SandboxInfo> SandboxesImpl::get(std::string_view id) const {
  const auto sandbox = find(id);
  if (!sandbox) return sandbox_not_found(id);
  return sandbox->info;
}

const SandboxInfo* SandboxesImpl::peek(std::string_view id) const {
  const auto sandbox = find(id);
  return sandbox ? &sandbox->info : nullptr;
}

void SandboxesImpl::for_each(const std::function<void(const SandboxInfo&)>& visit) const {
  for (const auto& [id, sandbox] : sandboxes_)
    if (visible(*sandbox)) visit(sandbox->info);
}

std::vector<SandboxInfo> SandboxesImpl::list() const {
  std::vector<SandboxInfo> infos;
  for_each([&](const SandboxInfo& info) { infos.push_back(info); });
  std::ranges::sort(infos, [](const SandboxInfo& a, const SandboxInfo& b) {
    return a.started_at != b.started_at ? a.started_at > b.started_at : a.id < b.id;
  });
  return infos;
}

Sandboxes::Status SandboxesImpl::status() const {
  Status status;
  for (const auto& [id, sandbox] : sandboxes_)
    if (visible(*sandbox)) ++(sandbox->info.state == SandboxState::paused ? status.paused : status.running);
  const auto shells = shells_.counts();
  status.warm = {warm_.size(), warm_.wanted(), warm_.counts().hits, warm_.counts().misses};
  status.shells = {shells.ready, shells.wanted, shells.hits, shells.misses};
  return status;
}

// --- Deadlines ---

awaitable<Result<void>> SandboxesImpl::set_timeout(std::string id, seconds timeout) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (timeout > seconds(0)) {
    sandbox->timeout = timeout;
    co_return co_await move_deadline(sandbox, Clock::now() + timeout);
  }
  if (!sandbox->info.auto_pause) co_return co_await kill(std::move(id));
  if (sandbox->info.state == SandboxState::running) reach_deadline(sandbox);
  co_return Result<void>{};
}

awaitable<Result<void>> SandboxesImpl::extend(std::string id, seconds duration) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  const TimePoint end = Clock::now() + duration;
  if (end <= sandbox->info.end_at) co_return Result<void>{};
  sandbox->timeout = duration;
  co_return co_await move_deadline(sandbox, end);
}

awaitable<Result<void>> SandboxesImpl::set_egress(std::string id, EgressRules egress) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  sandbox->info.network.egress = std::move(egress);
  co_return co_await save(sandbox);
}

awaitable<Result<void>> SandboxesImpl::move_deadline(SandboxPtr sandbox, TimePoint end) {
  sandbox->info.end_at = end;
  note_deadline(*sandbox);
  if (sandbox->info.state == SandboxState::running) arm_deadline(sandbox);
  co_return co_await save(sandbox);
}

/// What was changed of one that goes on as it is.
awaitable<Result<void>> SandboxesImpl::save(SandboxPtr sandbox) {
  // Not over the row of one that is paused, resumed or killed at the same time: whoever does that writes it.
  const SandboxRow row = to_row(*sandbox);
  co_return co_await run_on(executors_.workers, [&] { return store_.update_sandbox(row); });
}

void SandboxesImpl::arm_deadline(const SandboxPtr& sandbox) {
  const auto left = sandbox->info.end_at - Clock::now();
  sandbox->deadline.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(left));
  sandbox->deadline.async_wait(
      [weak = weak_from_this(), target = std::weak_ptr(sandbox)](const asio::error_code& moved) {
        const auto self = weak.lock();
        const auto sandbox = target.lock();
        if (moved || !self || !sandbox || sandbox->info.state != SandboxState::running) return;
        // The wall clock may have been set meanwhile, and the deadline moved just before this ran.
        if (Clock::now() < sandbox->info.end_at) return self->arm_deadline(sandbox);
        self->reach_deadline(sandbox);
      });
}

void SandboxesImpl::reach_deadline(const SandboxPtr& sandbox) {
  const std::string id = sandbox->info.id;
  if (!sandbox->info.auto_pause) {
    log(LogLevel::info, "node", "sandbox reached its end of life", {{"sandbox", id}});
    return end(id);
  }
  log(LogLevel::info, "node", "sandbox reached its deadline: pausing it", {{"sandbox", id}});
  const auto paused = [weak = weak_from_this(), id](std::exception_ptr, Result<void> outcome) {
    // A sandbox that cannot be kept does not run for ever either.
    if (outcome.ok() || outcome.error().code == ErrorCode::not_found ||
        outcome.error().code == ErrorCode::conflict)
      return;
    log(LogLevel::error, "node", "cannot pause a sandbox at its deadline: killing it",
        {{"sandbox", id}, {"error", outcome.error().describe()}});
    if (const auto self = weak.lock()) self->end(id);
  };
  const PauseOptions options{sandbox->info.auto_pause_memory, false};
  asio::co_spawn(executors_.loop, pause(id, options), paused);
}

// --- Ports ---

awaitable<Result<std::unique_ptr<Stream>>> SandboxesImpl::open_port(std::string id, std::uint16_t port) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (sandbox->info.state != SandboxState::running) {
    if (!sandbox->info.auto_resume || !sandbox->info.paused_with_memory) co_return sandbox_not_found(id);
    ResumeOptions options;
    options.timeout = std::max(sandbox->timeout, least_resumed_timeout);
    const auto resumed = co_await make_running(sandbox, options);
    if (!resumed.ok()) co_return resumed.error();
  }
  if (!std::exchange(sandbox->running.used, true)) begin_use(sandbox);
  GuestClient guest(sandbox->running.machine);
  auto stream = co_await guest.open_port(port, dial_timeout);
  // A sandbox that died meanwhile is not one whose port is closed.
  if (!stream && sandbox->info.state != SandboxState::running) co_return sandbox_not_found(id);
  co_return stream;
}

/// At its first connection.
void SandboxesImpl::begin_use(const SandboxPtr& sandbox) {
  Running& running = sandbox->running;
  running.machine->expect_use();
  if (running.witness && !running.witness->wanted(Phase::used)) running.witness.reset();
  if (running.witness) asio::co_spawn(executors_.loop, learn_use(sandbox), asio::detached);
}

/// What a sandbox touches within a second of its first connection is what its use needs; if it has gone
/// before, it was asked then.
awaitable<void> SandboxesImpl::learn_use(SandboxPtr sandbox) {
  const auto self = shared_from_this();
  const auto machine = std::weak_ptr(sandbox->running.machine);
  asio::steady_timer pause(executors_.loop, first_use);
  asio::error_code ignored;
  co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  const auto running = machine.lock();
  if (!running || running != sandbox->running.machine || !sandbox->running.witness) co_return;
  const auto witness = std::move(sandbox->running.witness);
  co_await run_on(executors_.workers, [&] {
    witness->learn(*running, Phase::used);
    return true;
  });
}

// --- The end ---

awaitable<Result<void>> SandboxesImpl::kill(std::string id) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  const bool on_disk = is_on_disk(*sandbox);
  enter(*sandbox, SandboxState::killing);
  bury(sandbox);
  co_return co_await run_on(executors_.workers, [&]() -> Result<void> {
    CUBE_TRY(store_.remove_sandbox(id));
    if (!on_disk) return {};
    return snapshot::remove_if_there(paused_directory(id));
  });
}

/// The guest ended itself, broke a rule, or KVM refused to run it.
void SandboxesImpl::machine_stopped(const std::weak_ptr<Sandbox>& target, const void* machine,
                                    const vmm::StopReason& reason) {
  const auto sandbox = target.lock();
  if (!sandbox || reason.kind == vmm::StopReason::Kind::requested) return;
  log(LogLevel::warning, "node", "the guest stopped",
      {{"sandbox", sandbox->info.id}, {"reason", reason.detail}});
  // Not if it is one that a rollback was preparing, or waits in the pool.
  if (sandbox->running.machine.get() == machine && visible(*sandbox)) end(sandbox->info.id);
}

/// Kills without anybody waiting for it.
void SandboxesImpl::end(const std::string& id) {
  asio::co_spawn(executors_.loop, kill(id), [id](std::exception_ptr, Result<void> killed) {
    if (!killed.ok() && killed.error().code != ErrorCode::not_found)
      log(LogLevel::error, "node", killed.error().describe(), {{"sandbox", id}});
  });
}

/// Gone for every other call from here on.
void SandboxesImpl::bury(const SandboxPtr& sandbox) {
  sandbox->deadline.cancel();
  sandboxes_.erase(sandbox->info.id);
  sandbox->info.state = SandboxState::dead;
  retire(sandbox->running);
}

/// Streams into the guest end, and the machine is given to the reapers with its last user.
void SandboxesImpl::retire(Running& running) {
  const Running last = std::exchange(running, {});
  if (!last.machine) return;
  if (!last.used || !last.witness) return last.machine->stop();
  // When it has stopped it has no memory left to look at.
  asio::post(executors_.workers, [last] {
    last.witness->learn(*last.machine, Phase::used);
    last.machine->stop();
  });
}

awaitable<void> SandboxesImpl::remove_paused_directory(std::string id) {
  const auto removed =
      co_await run_on(executors_.workers, [&] { return snapshot::remove_if_there(paused_directory(id)); });
  if (!removed.ok()) log(LogLevel::warning, "node", removed.error().describe(), {{"sandbox", id}});
}

void SandboxesImpl::shut_down() {
  shut_down_ = true;
  housekeeping_.cancel();
  refill_.cancel();
  discard(warm_.drain());
  for (const auto& [id, sandbox] : std::exchange(sandboxes_, {})) {
    sandbox->deadline.cancel();
    const bool on_disk = is_on_disk(*sandbox);
    sandbox->info.state = SandboxState::dead;
    retire(sandbox->running);
    if (on_disk) continue;
    if (const auto removed = store_.remove_sandbox(id); !removed.ok())
      log(LogLevel::warning, "node", removed.error().describe(), {{"sandbox", id}});
  }
}

bool SandboxesImpl::visible(const Sandbox& sandbox) {
  return sandbox.info.state != SandboxState::creating && sandbox.info.state != SandboxState::dead;
}

SandboxPtr SandboxesImpl::find(std::string_view id) const {
  const auto found = sandboxes_.find(std::string(id));
  return found != sandboxes_.end() && visible(*found->second) ? found->second : nullptr;
}

/// Every change of state goes through the table.
void SandboxesImpl::enter(Sandbox& sandbox, SandboxState next) {
  if (!may_become(sandbox.info.state, next))
    log(LogLevel::error, "node", "a transition that should not be",
        {{"sandbox", sandbox.info.id},
         {"from", std::string(to_string(sandbox.info.state))},
         {"to", std::string(to_string(next))}});
  sandbox.info.state = next;
}

// --- Housekeeping ---

void SandboxesImpl::start_housekeeping() { asio::co_spawn(executors_.loop, keep_house(), asio::detached); }

/// The pools follow demand, and give way when the host runs short of memory.
awaitable<void> SandboxesImpl::keep_house() {
  for (int interval = 1;; ++interval) {
    // Between two rounds nothing here keeps this object alive.
    const auto weak = weak_from_this();
    housekeeping_.expires_after(housekeeping_interval);
    asio::error_code stopped;
    co_await housekeeping_.async_wait(asio::redirect_error(asio::use_awaitable, stopped));
    const auto self = weak.lock();
    if (stopped || !self || shut_down_) co_return;

    discard(warm_.take_outdated([this](const CloneSource& source) {
      const auto now = source_of(source.checkpoint_id.empty() ? source.template_id : source.checkpoint_id);
      return now.ok() && now->snapshot == source.snapshot;
    }));
    if (interval % intervals_a_minute == 0) {
      discard(warm_.age());
      asio::post(executors_.workers, [self] { self->shells_.age(); });
    }
    if (const auto memory = host_memory(); memory && short_of_memory(*memory)) {
      discard(warm_.drain());
      asio::post(executors_.workers, [self] { self->shells_.drain(); });
    } else if (!refill_due_) {
      refill_warm_pool();
    }
  }
}

Result<std::shared_ptr<Sandboxes>> make_sandboxes(vmm::Executors executors, Store& store,
                                                  std::function<Result<CloneSource>(std::string_view)> find,
                                                  Settings settings) {
  auto sandboxes =
      std::make_shared<SandboxesImpl>(std::move(executors), store, std::move(find), std::move(settings));
  CUBE_TRY(sandboxes->load());
  sandboxes->start_housekeeping();
  return std::shared_ptr<Sandboxes>(std::move(sandboxes));
}

}  // namespace cube::node
