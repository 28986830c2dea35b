// What happens to sandboxes while they live: pausing and resuming, checkpoints, forks, going back.
//
// A capture stops the machine for as long as it takes to copy what it has changed; making that durable comes
// after. Each operation is all or nothing: what fails leaves the sandbox as it was.
#include <asio/post.hpp>

#include "node/sandbox_record.hpp"
#include "node/sandboxes_impl.hpp"

namespace cube::node {

using snapshot::SnapshotPtr;
using std::chrono::seconds;

namespace {

/// Layers of a chain before it is merged behind the sandbox's back.
constexpr std::size_t most_depth = 4;

/// Forks of one request that come up at the same time.
constexpr std::size_t forks_at_once = 8;

/// How long an agent that is asked whether it is alive may take.
constexpr std::chrono::milliseconds health_timeout{5'000};

/// Names the damaged file, but not where the daemon keeps it.
Error cannot_resume(const std::string& id, const Error& damage) {
  return make_error(damage.code, "sandbox '" + id + "' cannot be resumed: " +
                                     damage.object.substr(damage.object.rfind('/') + 1) + ": " +
                                     damage.message);
}

/// The same without its memory: what a machine is booted from.
Result<SnapshotPtr> without_memory(const SnapshotPtr& snapshot) {
  const auto disk = snapshot->open_disk();
  if (!disk) return disk.error();
  return snapshot::capture_disk(snapshot, **disk);
}

/// In the logs of both.
void note_fork(Sandbox& parent, Sandbox& child) {
  parent.events.add(LogLevel::info, "sandbox forked", {{"fork", child.info.id}});
  child.events.add(LogLevel::info, "sandbox created",
                   {{"fork of", parent.info.id}, {"templateID", child.info.template_id}});
}

/// On a worker: the machine is paused and on disk, or runs on and nothing is left behind.
Result<SnapshotPtr> take_to_disk(const Running& running, const SnapshotPtr& before, bool with_memory,
                                 const std::string& directory) {
  if (with_memory) CUBE_TRY(running.machine->settle());
  CUBE_TRY(running.machine->pause());
  auto captured = with_memory ? snapshot::capture(before, *running.machine, *running.disk)
                              : snapshot::capture_disk(before, *running.disk);
  if (captured)
    if (auto published = (*captured)->publish(directory); !published) captured = std::move(published).error();
  if (!captured)
    if (const auto resumed = running.machine->resume(); !resumed)
      log(LogLevel::error, "node", resumed.error().describe());
  return captured;
}

}  // namespace

// --- Pausing and resuming ---

awaitable<Result<void>> SandboxesImpl::pause(std::string id, PauseOptions options) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (sandbox->info.state != SandboxState::running) co_return wrong_state(*sandbox, "running");
  enter(*sandbox, SandboxState::pausing);
  sandbox->deadline.cancel();
  const auto turn = co_await sandbox->operation.lock();
  const auto paused = co_await pause_running(sandbox, options);
  if (paused.ok()) {
    merge_behind(sandbox);
    co_return paused;
  }
  if (sandbox->info.state == SandboxState::pausing) {
    enter(*sandbox, SandboxState::running);
    if (sandbox->running.machine->stopped()) {
      end(id);  // it stopped by itself; nobody could say so while it was pausing
    } else {
      arm_deadline(sandbox);
    }
  }
  sandbox->events.add(LogLevel::error, "sandbox could not be paused: " + paused.error().message);
  co_return paused;
}

awaitable<Result<void>> SandboxesImpl::pause_running(SandboxPtr sandbox, PauseOptions options) {
  const auto started = SteadyClock::now();
  const std::string id = sandbox->info.id;
  const Running running = sandbox->running;
  if (sandbox->info.state != SandboxState::pausing) co_return sandbox_not_found(id);
  GuestClient guest(running.machine);
  if (options.require_healthy_guest) {
    const auto healthy = co_await guest.wait_ready(health_timeout);
    if (!healthy.ok()) co_return make_error(ErrorCode::unavailable, "the guest's agent does not answer", id);
  }
  if (!options.with_memory) {
    const auto synced = co_await guest.sync(settings_.guest_timeout);
    if (!synced.ok()) co_return synced.error();
  }
  auto captured = co_await run_on(executors_.workers, [&] {
    return take_to_disk(running, sandbox->snapshot, options.with_memory, paused_directory(id));
  });
  if (!captured) co_return std::move(captured).error();
  if (sandbox->info.state != SandboxState::pausing) {  // killed meanwhile
    co_await remove_paused_directory(id);
    co_return sandbox_not_found(id);
  }

  sandbox->info.paused_with_memory = options.with_memory;
  SandboxRow row = to_row(*sandbox);
  row.state = to_string(SandboxState::paused);
  const auto saved =
      co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row, Durability::host); });
  if (sandbox->info.state != SandboxState::pausing) {
    co_await remove_paused_directory(id);
    // The kill has removed its row before, or this one came later than that.
    co_await run_on(executors_.workers, [&] { return store_.remove_sandbox(id).ok(); });
    co_return sandbox_not_found(id);
  }
  if (!saved.ok()) {
    co_await remove_paused_directory(id);
    if (const auto resumed = running.machine->resume(); !resumed.ok())
      log(LogLevel::error, "node", resumed.error().describe(), {{"sandbox", id}});
    co_return saved.error();
  }
  enter(*sandbox, SandboxState::paused);
  sandbox->snapshot = std::move(*captured);
  sandbox->merged.reset();
  retire(sandbox->running);
  EventLog::Fields how;
  how["memory"] = options.with_memory ? "kept" : "not kept";
  sandbox->events.add(LogLevel::info, "sandbox paused", std::move(how));
  log(LogLevel::info, "node", "sandbox paused", {{"sandbox", id}, {"ms", ms_since(started)}});
  co_return Result<void>{};
}

awaitable<Result<SandboxInfo>> SandboxesImpl::resume(std::string id, ResumeOptions options) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (sandbox->info.state != SandboxState::paused) co_return wrong_state(*sandbox, "paused");
  const auto resumed = co_await make_running(sandbox, options);
  if (!resumed.ok()) co_return resumed.error();
  co_return sandbox->info;
}

awaitable<Result<Sandboxes::Connected>> SandboxesImpl::connect(std::string id, ResumeOptions options) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (sandbox->info.state == SandboxState::running) {
    const auto extended = co_await extend(id, options.timeout);
    if (!extended.ok()) co_return extended.error();
    co_return Connected{sandbox->info, false};
  }
  const auto resumed = co_await make_running(sandbox, options);
  if (!resumed.ok()) co_return resumed.error();
  co_return Connected{sandbox->info, true};
}

/// Whatever else is done to it now comes first; then it runs, by this call or another.
awaitable<Result<void>> SandboxesImpl::make_running(SandboxPtr sandbox, ResumeOptions options) {
  const auto self = shared_from_this();
  const auto turn = co_await sandbox->operation.lock();
  if (sandbox->info.state == SandboxState::running) co_return Result<void>{};
  if (sandbox->info.state != SandboxState::paused) co_return sandbox_not_found(sandbox->info.id);
  enter(*sandbox, SandboxState::resuming);
  const auto resumed = co_await resume_paused(sandbox, options);
  if (!resumed.ok() && sandbox->info.state == SandboxState::resuming) {
    enter(*sandbox, SandboxState::paused);
    sandbox->events.add(LogLevel::error, "sandbox could not be resumed: " + resumed.error().message);
  }
  co_return resumed;
}

awaitable<Result<void>> SandboxesImpl::resume_paused(SandboxPtr sandbox, ResumeOptions options) {
  const auto started = SteadyClock::now();
  const std::string id = sandbox->info.id;
  if (sandbox->damage) co_return cannot_resume(id, *sandbox->damage);
  auto reservation = co_await reserve(sandbox->snapshot->shape());
  if (!reservation) co_return std::move(reservation).error();
  SnapshotPtr source = sandbox->snapshot;
  if (!options.with_memory && source->has_memory()) {
    auto disk_only = co_await run_on(executors_.workers, [&] { return without_memory(sandbox->snapshot); });
    if (!disk_only) co_return std::move(disk_only).error();
    source = std::move(*disk_only);
  }
  const bool with_memory = source->has_memory();
  Identity identity{false, std::nullopt};
  if (!with_memory) identity.env_vars = sandbox->env_vars;
  auto running =
      co_await start(sandbox, source, std::move(*reservation), std::move(identity), Readiness::to_go_on);
  sandbox->info.agent_silent =
      !running && with_memory && running.error().code == ErrorCode::deadline_exceeded;
  if (!running && running.error().code == ErrorCode::corrupt) co_return cannot_resume(id, running.error());
  if (!running) co_return std::move(running).error();

  sandbox->timeout = std::min(options.timeout, longest_timeout);
  sandbox->info.end_at = Clock::now() + sandbox->timeout;
  SandboxRow row = to_row(*sandbox);
  row.state = to_string(SandboxState::running);
  auto saved = co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row, Durability::host); });
  if (sandbox->info.state != SandboxState::resuming) {  // killed meanwhile
    retire(*running);
    co_await run_on(executors_.workers, [&] { return store_.remove_sandbox(id).ok(); });
    co_return sandbox_not_found(id);
  }
  if (saved.ok() && running->machine->stopped()) {
    // What is on disk is still whole: it stays paused, for whoever wants to try again.
    row.state = to_string(SandboxState::paused);
    const auto kept =
        co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row, Durability::host); });
    saved = kept.ok() ? make_error(ErrorCode::unavailable, "the guest stopped when it was resumed", id)
                      : kept.error();
  }
  if (!saved.ok()) {
    retire(*running);
    co_return saved.error();
  }
  sandbox->running = std::move(*running);
  sandbox->snapshot = std::move(source);
  ++sandbox->info.incarnation;
  EventLog::Fields how;
  how["memory"] = with_memory ? "kept" : "new: booted from its disk";
  sandbox->events.add(LogLevel::info, "sandbox resumed", std::move(how));
  enter(*sandbox, SandboxState::running);
  arm_deadline(sandbox);
  asio::co_spawn(executors_.loop, forget_pause(sandbox), asio::detached);
  log(LogLevel::info, "node", "sandbox resumed", {{"sandbox", id}, {"ms", ms_since(started)}});
  co_return Result<void>{};
}

/// What a running sandbox was resumed from is of no use any more. In turn with a next pause, which writes to
/// the same place.
awaitable<void> SandboxesImpl::forget_pause(SandboxPtr sandbox) {
  const auto self = shared_from_this();
  const auto turn = co_await sandbox->operation.lock();
  if (sandbox->info.state != SandboxState::paused) co_await remove_paused_directory(sandbox->info.id);
}

// --- Captures of running sandboxes ---

/// With the operation's turn. The machine runs on, whatever comes of it.
awaitable<Result<SnapshotPtr>> SandboxesImpl::capture_running(SandboxPtr sandbox, bool with_memory) {
  if (sandbox->info.state != SandboxState::running) co_return wrong_state(*sandbox, "running");
  const Running running = sandbox->running;
  if (!with_memory) {
    GuestClient guest(running.machine);
    const auto synced = co_await guest.sync(settings_.guest_timeout);
    if (!synced.ok()) co_return synced.error();
  }
  const auto merged = std::exchange(sandbox->merged, std::nullopt);
  SnapshotPtr before = sandbox->snapshot;
  auto captured = co_await run_on(executors_.workers, [&]() -> Result<SnapshotPtr> {
    CUBE_TRY(running.machine->pause());
    if (merged) before = snapshot::rebase(before, merged->before, merged->after, *running.disk);
    auto taken = with_memory ? snapshot::capture(before, *running.machine, *running.disk)
                             : snapshot::capture_disk(before, *running.disk);
    CUBE_TRY(running.machine->resume());
    return taken;
  });
  // What the next capture is compared with has to have memory.
  sandbox->snapshot = captured.ok() && with_memory ? *captured : before;
  merge_behind(sandbox);
  co_return captured;
}

awaitable<Result<CheckpointInfo>> SandboxesImpl::checkpoint(std::string id, std::string name,
                                                            bool with_memory) {
  const auto self = shared_from_this();
  const auto started = SteadyClock::now();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  if (!name.empty() && find_template_(name).ok())
    co_return make_error(ErrorCode::conflict, "a template has this name", name);
  const auto turn = co_await sandbox->operation.lock();
  if (sandbox->damage) co_return *sandbox->damage;
  std::optional<Result<SnapshotPtr>> captured;
  if (sandbox->info.state == SandboxState::paused)
    captured = sandbox->snapshot;
  else
    captured = co_await capture_running(sandbox, with_memory);
  if (!captured->ok()) co_return captured->error();

  CheckpointInfo info;
  info.name = std::move(name);
  info.sandbox_id = id;
  info.template_id = sandbox->info.template_id;
  info.template_name = sandbox->info.template_name;
  info.parent_id = sandbox->checkpoint_id;
  auto added = co_await checkpoints_.add(std::move(info), **captured);
  if (!added.ok()) co_return added.error();
  sandbox->checkpoint_id = added->id;
  if (sandbox->info.state == SandboxState::paused) {  // of a running one nothing outlives the daemon
    const SandboxRow row = to_row(*sandbox);
    const auto noted = co_await run_on(executors_.workers, [&] { return store_.update_sandbox(row); });
    if (!noted.ok()) log(LogLevel::warning, "node", noted.error().describe(), {{"sandbox", id}});
  }
  EventLog::Fields which;
  which["snapshotID"] = added->id;
  which["name"] = added->name;
  sandbox->events.add(LogLevel::info, "snapshot taken", std::move(which));
  log(LogLevel::info, "node", "checkpoint taken",
      {{"sandbox", id}, {"checkpoint", added->id}, {"ms", ms_since(started)}});
  co_return std::move(*added);
}

awaitable<Result<std::vector<Result<SandboxInfo>>>> SandboxesImpl::fork(std::string id, std::size_t count,
                                                                        seconds timeout) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  CloneSource source{sandbox->info.template_id, sandbox->info.template_name, sandbox->checkpoint_id, nullptr};
  {
    const auto turn = co_await sandbox->operation.lock();
    auto captured = co_await capture_running(sandbox, true);
    if (!captured.ok()) co_return captured.error();
    source.checkpoint_id = sandbox->checkpoint_id;
    source.snapshot = std::move(*captured);
  }
  source.snapshot->expect_clones(count);
  CreateRequest request;
  request.timeout = timeout;
  request.metadata = sandbox->info.metadata;
  request.env_vars = sandbox->env_vars;
  request.auto_pause = sandbox->info.auto_pause;
  request.auto_pause_memory = sandbox->info.auto_pause_memory;
  request.auto_resume = sandbox->info.auto_resume;
  request.network = sandbox->info.network;  // each fork has a traffic access token of its own

  std::vector<Result<SandboxInfo>> outcomes(count, Result<SandboxInfo>(SandboxInfo{}));
  const auto fork_one = [&](std::size_t index) -> awaitable<void> {
    const auto child = std::make_shared<Sandbox>(executors_.loop);
    describe(*child, source);
    apply(*child, request);
    auto reservation = co_await reserve(source.snapshot->shape());
    if (!reservation.ok()) {
      outcomes[index] = reservation.error();
      co_return;
    }
    Identity identity{true, std::nullopt};
    auto up = co_await come_up(child, source, std::move(*reservation), std::move(identity));
    if (up.ok()) up = co_await go_live(child);
    if (!up.ok()) {
      bury(child);
      outcomes[index] = up.error();
    } else {
      note_fork(*sandbox, *child);
      outcomes[index] = child->info;
    }
  };
  co_await for_each_concurrently(count, forks_at_once, fork_one);
  co_return outcomes;
}

awaitable<Result<SandboxInfo>> SandboxesImpl::rollback(std::string id, std::string reference) {
  const auto self = shared_from_this();
  const auto started = SteadyClock::now();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  const auto turn = co_await sandbox->operation.lock();
  if (sandbox->info.state != SandboxState::running) co_return wrong_state(*sandbox, "running");
  const auto checkpoint = checkpoints_.find(reference);
  if (!checkpoint.ok()) co_return make_error(ErrorCode::invalid_argument, checkpoint.error().message);
  if (checkpoint->sandbox_id != id && !checkpoints_.descends(sandbox->checkpoint_id, checkpoint->id))
    co_return make_error(
        ErrorCode::invalid_argument,
        "snapshot '" + checkpoint->id + "' is neither of this sandbox nor one it descends from");
  const auto source = checkpoints_.source(checkpoint->id);
  if (!source.ok()) co_return source.error();
  auto reservation = co_await reserve(source->snapshot->shape());
  if (!reservation) co_return std::move(reservation).error();
  Identity identity{false, sandbox->env_vars};
  auto running = co_await start(sandbox, source->snapshot, std::move(*reservation), std::move(identity),
                                Readiness::to_go_on);
  if (!running) co_return std::move(running).error();
  if (sandbox->info.state != SandboxState::running || running->machine->stopped()) {
    retire(*running);
    if (sandbox->info.state != SandboxState::running) co_return sandbox_not_found(id);
    co_return make_error(ErrorCode::unavailable, "the guest stopped when it was restored", id);
  }
  // From here on the new machine is the sandbox; streams into the old one end.
  std::swap(sandbox->running, *running);
  ++sandbox->info.incarnation;
  sandbox->snapshot = source->snapshot;
  sandbox->checkpoint_id = checkpoint->id;
  sandbox->merged.reset();
  retire(*running);
  EventLog::Fields which;
  which["snapshotID"] = checkpoint->id;
  sandbox->events.add(LogLevel::info, "sandbox rolled back", std::move(which));
  log(LogLevel::info, "node", "sandbox rolled back",
      {{"sandbox", id}, {"checkpoint", checkpoint->id}, {"ms", ms_since(started)}});
  co_return sandbox->info;
}

// --- Merging ---

/// A chain that has become deep is merged while the sandbox goes on.
void SandboxesImpl::merge_behind(const SandboxPtr& sandbox) {
  if (sandbox->merging || shut_down_ || sandbox->snapshot->depth() <= most_depth) return;
  sandbox->merging = true;
  asio::co_spawn(executors_.loop, merge(sandbox, sandbox->snapshot), asio::detached);
}

awaitable<void> SandboxesImpl::merge(SandboxPtr sandbox, SnapshotPtr before) {
  const auto self = shared_from_this();
  const auto merged = co_await run_on(executors_.workers, [&] { return snapshot::merge(before); });
  sandbox->merging = false;
  if (!merged.ok()) {
    log(LogLevel::warning, "node", "cannot merge layers",
        {{"sandbox", sandbox->info.id}, {"error", merged.error().describe()}});
    co_return;
  }
  co_await checkpoints_.replace(before, *merged);
  const auto turn = co_await sandbox->operation.lock();
  if (sandbox->info.state == SandboxState::running) sandbox->merged = Sandbox::Merged{before, *merged};
  if (sandbox->info.state != SandboxState::paused || sandbox->snapshot != before) co_return;
  const std::string directory = paused_directory(sandbox->info.id);
  const auto replaced =
      co_await run_on(executors_.workers, [&] { return (*merged)->publish_over(directory); });
  // Only the files change, not what they hold: whoever has the old ones open may go on with them.
  if (replaced.ok() && sandbox->info.state == SandboxState::paused) sandbox->snapshot = *merged;
}

}  // namespace cube::node
