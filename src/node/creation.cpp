// How sandboxes come to be: from the warm pool, or cloned on the spot.
#include <asio/post.hpp>

#include "node/boot.hpp"
#include "node/sandbox_record.hpp"
#include "node/sandboxes_impl.hpp"

namespace cube::node {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds refill_delay{250};
constexpr milliseconds longest_refill_delay{1'000};
constexpr milliseconds between_looks{50};
constexpr milliseconds longest_wait_for_memory{2'000};

void note_creation(Sandbox& sandbox, const CloneSource& source) {
  EventLog::Fields fields;
  fields["templateID"] = source.template_id;
  if (!source.template_name.empty()) fields["template"] = source.template_name;
  if (!source.checkpoint_id.empty()) fields["snapshotID"] = source.checkpoint_id;
  sandbox.events.add(LogLevel::info, "sandbox created", std::move(fields));
}

/// Counts requests in progress.
class InProgress {
 public:
  explicit InProgress(std::size_t& count) : count_(count) { ++count_; }
  ~InProgress() { --count_; }
  InProgress(const InProgress&) = delete;
  InProgress& operator=(const InProgress&) = delete;

 private:
  std::size_t& count_;
};

}  // namespace

awaitable<Result<SandboxInfo>> SandboxesImpl::create(CreateRequest request) {
  const auto self = shared_from_this();
  const auto started = SteadyClock::now();
  const auto source = source_of(request.template_ref);
  if (!source) co_return source.error();
  const InProgress in_progress(creating_);

  SandboxPtr sandbox = warm_.take(*source);
  if (sandbox) {
    apply(*sandbox, request);
    const auto claimed = co_await claim(sandbox);
    if (!claimed.ok()) {
      log(LogLevel::warning, "node", "a warm sandbox does not answer: making another",
          {{"sandbox", sandbox->info.id}, {"error", claimed.error().describe()}});
      discard({sandbox});
      sandbox = nullptr;
    }
  }
  const bool warm = sandbox != nullptr;
  Result<void> up;
  if (!warm) {
    auto reservation = co_await reserve(source->snapshot->shape());
    if (!reservation.ok()) co_return reservation.error();
    sandbox = std::make_shared<Sandbox>(executors_.loop);
    describe(*sandbox, *source);
    apply(*sandbox, std::move(request));
    Identity identity{true, sandbox->env_vars};
    up = co_await come_up(sandbox, *source, std::move(*reservation), std::move(identity));
  }
  if (up.ok()) up = co_await go_live(sandbox);
  if (!up.ok()) {
    log(LogLevel::warning, "node", "a clone did not come up",
        {{"sandbox", sandbox->info.id}, {"error", up.error().describe()}});
    bury(sandbox);
    co_return up.error();
  }
  note_creation(*sandbox, *source);
  if (settings_.on_created) settings_.on_created(*source);
  if (!warm) warm_.want_more(*source);
  refill_warm_pool_later();
  log(LogLevel::info, "node", "sandbox created",
      {{"sandbox", sandbox->info.id},
       {"template", source->template_id},
       {"pool", warm ? "hit" : "miss"},
       {"ms", ms_since(started)}});
  co_return sandbox->info;
}

/// Checkpoints first: their ids are as random as those of templates, and their names never a template's.
Result<CloneSource> SandboxesImpl::source_of(std::string_view reference) {
  auto source = checkpoints_.source(reference);
  if (source.ok() || source.error().code != ErrorCode::not_found) return source;
  return find_template_(reference);
}

/// What only saves time gives way to what was asked for; its memory is free when its machines have ended.
awaitable<Result<Reservation>> SandboxesImpl::reserve(const snapshot::Shape& shape) {
  const std::uint64_t memory_mib = shape.memory_bytes >> 20;
  auto reservation = admission_.reserve(memory_mib);
  if (reservation.ok() || warm_.size() == 0) co_return reservation;
  discard(warm_.drain());
  asio::steady_timer pause(executors_.loop);
  const auto deadline = SteadyClock::now() + longest_wait_for_memory;
  while (!reservation.ok() && SteadyClock::now() < deadline) {
    pause.expires_after(milliseconds(5));
    asio::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    reservation = admission_.reserve(memory_mib);
  }
  co_return reservation;
}

void SandboxesImpl::describe(Sandbox& sandbox, const CloneSource& source) const {
  SandboxInfo& info = sandbox.info;
  const snapshot::Shape& shape = source.snapshot->shape();
  info.id = make_sandbox_id(settings_.node_tag);
  info.template_id = source.template_id;
  info.template_name = source.template_name;
  info.vcpu_count = shape.vcpu_count;
  info.memory_mib = shape.memory_bytes >> 20;
  info.disk_mib = shape.disk_bytes >> 20;
  info.envd_version = guest::envd_version;
  info.access_token = random_hex(32);
  sandbox.snapshot = source.snapshot;
  sandbox.checkpoint_id = source.checkpoint_id;
}

void SandboxesImpl::apply(Sandbox& sandbox, CreateRequest request) {
  SandboxInfo& info = sandbox.info;
  sandbox.timeout = std::min(request.timeout, longest_timeout);
  info.started_at = Clock::now();
  info.end_at = info.started_at + sandbox.timeout;
  info.metadata = std::move(request.metadata);
  info.auto_pause = request.auto_pause;
  info.auto_pause_memory = request.auto_pause_memory;
  info.auto_resume = request.auto_resume;
  info.network = std::move(request.network);
  if (!info.network.allow_public_traffic) info.traffic_access_token = random_hex(32);
  sandbox.env_vars = std::move(request.env_vars);
}

/// From a snapshot to a guest that is the sandbox and nobody else.
awaitable<Result<void>> SandboxesImpl::come_up(SandboxPtr sandbox, CloneSource source,
                                               Reservation reservation, Identity identity,
                                               Readiness readiness) {
  auto running =
      co_await start(sandbox, source.snapshot, std::move(reservation), std::move(identity), readiness);
  if (!running) co_return std::move(running).error();
  sandbox->running = std::move(*running);
  co_return Result<void>{};
}

/// A running machine that has taken its identity, or nothing. The sandbox's own machine is left alone.
awaitable<Result<Running>> SandboxesImpl::start(SandboxPtr sandbox, snapshot::SnapshotPtr snapshot,
                                                Reservation reservation, Identity identity,
                                                Readiness readiness) {
  const auto permit = co_await coming_up_.acquire();
  const auto begun = SteadyClock::now();
  auto running = co_await run_on(executors_.workers, [&]() -> Result<Running> {
    CUBE_TRY(snapshot->verify());
    return start_machine(sandbox, *snapshot, std::move(reservation), readiness);
  });
  if (!running) co_return std::move(running).error();
  const std::string restored = ms_since(begun);
  const auto restored_at = SteadyClock::now();

  GuestClient guest(running->machine);
  if (!snapshot->has_memory()) {
    const auto booted = co_await guest.wait_ready(settings_.boot_timeout);
    if (!booted.ok()) {
      retire(*running);
      co_return booted.error();
    }
  }
  const auto initialised =
      co_await guest.init(init_request(*sandbox, std::move(identity)), settings_.guest_timeout);
  if (!initialised.ok()) {
    retire(*running);
    co_return initialised.error();
  }
  log(LogLevel::debug, "node", "a machine came up",
      {{"sandbox", sandbox->info.id}, {"restore_ms", restored}, {"handshake_ms", ms_since(restored_at)}});
  using Phase = snapshot::Witness::Phase;
  if (running->witness && running->witness->wanted(Phase::came_up)) {
    // Before anybody uses it: what that needs is another matter.
    co_await run_on(executors_.workers, [&] {
      running->witness->learn(*running->machine, Phase::came_up);
      return true;
    });
  }
  co_return std::move(*running);
}

/// On a worker. The machine's last owner hands it to the reapers, because ending it blocks; what was reserved
/// for it is free when it is gone.
Result<Running> SandboxesImpl::start_machine(const SandboxPtr& sandbox, const snapshot::Snapshot& snapshot,
                                             Reservation reservation, Readiness readiness) {
  const auto machine_id = std::make_shared<const void*>(nullptr);
  vmm::MachineConfig config;
  // Also when the same sandbox comes back: nothing says that it does so only once.
  config.generation_id = random_generation_id();
  config.new_generation = true;
  config.on_stop = [weak = weak_from_this(), target = std::weak_ptr(sandbox),
                    machine_id](vmm::StopReason reason) {
    if (const auto self = weak.lock()) self->machine_stopped(target, *machine_id, reason);
  };
  std::unique_ptr<vmm::Machine> made;
  std::shared_ptr<disk::CowDisk> disk;
  std::shared_ptr<snapshot::Witness> witness;
  if (snapshot.has_memory()) {
    auto clone = snapshot.clone(shells_, executors_, std::move(config), readiness);
    if (!clone) return std::move(clone).error();
    made = std::move(clone->machine);
    disk = std::move(clone->disk);
    witness = std::move(clone->witness);
  } else {
    auto opened = snapshot.open_disk();
    if (!opened) return std::move(opened).error();
    disk = std::move(*opened);
    config.vcpu_count = snapshot.shape().vcpu_count;
    config.memory_bytes = snapshot.shape().memory_bytes;
    config.root_disk = disk;
    auto booted = boot_guest(*settings_.shells, executors_, std::move(config), settings_.kernel_path);
    if (!booted) return std::move(booted).error();
    made = std::move(*booted);
  }
  *machine_id = made.get();
  std::shared_ptr<vmm::Machine> machine(
      made.release(), [reapers = reapers_, reservation = std::move(reservation)](vmm::Machine* last) {
        asio::post(reapers, [last, reservation] { delete last; });
      });
  CUBE_TRY(machine->resume());
  return Running{std::move(machine), std::move(disk), std::move(witness)};
}

guest::InitRequest SandboxesImpl::init_request(const Sandbox& sandbox, Identity identity) const {
  guest::InitRequest request;
  request.sandbox_id = sandbox.info.id;
  request.template_id = sandbox.info.template_id;
  request.entropy_hex = random_hex(64);
  request.unix_time_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
  request.access_token = sandbox.info.access_token;
  request.env_vars = std::move(identity.env_vars);
  request.new_identity = identity.is_new;
  return request;
}

/// The last step of every creation: known to everybody, and to the store.
awaitable<Result<void>> SandboxesImpl::go_live(SandboxPtr sandbox) {
  if (shut_down_)
    co_return make_error(ErrorCode::unavailable, "the daemon shut down while the sandbox was created",
                         sandbox->info.id);
  enter(*sandbox, SandboxState::running);
  sandboxes_.emplace(sandbox->info.id, sandbox);
  arm_deadline(sandbox);
  const SandboxRow row = to_row(*sandbox);
  const auto saved = co_await run_on(executors_.workers, [&] { return store_.put_sandbox(row); });
  if (!saved.ok()) co_return saved.error();
  if (sandbox->info.state == SandboxState::dead || sandbox->running.machine->stopped())
    co_return make_error(ErrorCode::unavailable, "the sandbox ended while it was created", sandbox->info.id);
  co_return Result<void>{};
}

// --- The warm pool ---

/// Its identity it has already; what it lacks is what the request asks for.
awaitable<Result<void>> SandboxesImpl::claim(SandboxPtr sandbox) {
  if (sandbox->env_vars.empty()) co_return Result<void>{};
  GuestClient guest(sandbox->running.machine);
  Identity identity{false, sandbox->env_vars};
  co_return co_await guest.init(init_request(*sandbox, std::move(identity)), settings_.guest_timeout);
}

/// What was just created is used at once: it has the processors first, for as long as it needs them all,
/// within reason. Later requests do not put it off any further.
void SandboxesImpl::refill_warm_pool_later() {
  if (std::exchange(refill_due_, true)) return;
  refill_warm_pool_after(refill_delay, SteadyClock::now() + longest_refill_delay);
}

void SandboxesImpl::refill_warm_pool_after(milliseconds delay, SteadyClock::time_point latest) {
  refill_.expires_after(delay);
  refill_.async_wait([weak = weak_from_this(), latest](const asio::error_code& cancelled) {
    const auto self = weak.lock();
    if (cancelled || !self) return;
    if (SteadyClock::now() < latest && processors_are_busy())
      return self->refill_warm_pool_after(between_looks, latest);
    self->refill_due_ = false;
    self->refill_warm_pool();
  });
}

/// One at a time, and only while there are processors that no request needs.
void SandboxesImpl::refill_warm_pool() {
  if (warming_ || shut_down_ || creating_ >= processors()) return;
  auto source = warm_.next_wanted();
  if (!source) return;
  const auto memory = host_memory();
  if (!memory) return;
  const double share =
      static_cast<double>(warm_.memory_bytes() >> 20) / static_cast<double>(memory->total_mib);
  if (share >= settings_.warm_memory_share) return;
  auto reservation = admission_.reserve(source->snapshot->shape().memory_bytes >> 20);
  if (!reservation) return;  // a full host has no room for what only saves time
  warming_ = true;
  asio::co_spawn(executors_.loop, warm_one(std::move(*source), std::move(*reservation)), asio::detached);
}

awaitable<void> SandboxesImpl::warm_one(CloneSource source, Reservation reservation) {
  const auto self = shared_from_this();
  const auto sandbox = std::make_shared<Sandbox>(executors_.loop);
  describe(*sandbox, source);
  sandbox->info.started_at = Clock::now();
  Identity identity{true, std::map<std::string, std::string>{}};
  const auto up =
      co_await come_up(sandbox, source, std::move(reservation), std::move(identity), Readiness::to_be_used);
  std::uint64_t bytes = 0;
  if (up.ok())
    bytes = co_await run_on(executors_.workers,
                            [&] { return snapshot::private_bytes(*sandbox->running.machine); });
  warming_ = false;
  if (!up.ok()) {
    log(LogLevel::warning, "node", "cannot make a sandbox ahead of time", {{"error", up.error().describe()}});
    discard(warm_.drain());  // wanted again by the next request
    co_return;
  }
  if (shut_down_) {
    discard({sandbox});
    co_return;
  }
  warm_.put(source, sandbox, bytes);
  refill_warm_pool();
}

/// Sandboxes nobody ever knew of.
void SandboxesImpl::discard(const std::vector<SandboxPtr>& sandboxes) {
  for (const SandboxPtr& sandbox : sandboxes) {
    sandbox->info.state = SandboxState::dead;
    retire(sandbox->running);
  }
}

}  // namespace cube::node
