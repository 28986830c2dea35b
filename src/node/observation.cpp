// What can be seen of a sandbox: what it uses, and what happened to it. Nothing here runs unless asked for.
#include <algorithm>

#include "node/sandboxes_impl.hpp"

namespace cube::node {

namespace {

/// Who looks on can wait that long for a guest; many of them may be silent.
constexpr std::chrono::milliseconds observation_timeout{3'000};

}  // namespace

awaitable<Result<std::vector<Metric>>> SandboxesImpl::metrics(std::string id, TimePoint first,
                                                              TimePoint last) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  const TimePoint now = Clock::now();
  const bool ends_now = last >= now - MetricHistory::sample_interval;
  if (ends_now && first <= now) co_await sample(sandbox);
  // What was sampled for this request belongs to it, though it is later than the end that was asked for, and
  // though the clock of who asks is some seconds behind.
  co_return sandbox->metrics.between(first, ends_now ? std::max(last, Clock::now()) : last);
}

awaitable<std::map<std::string, Metric>> SandboxesImpl::latest_metrics(std::vector<std::string> ids) {
  const auto self = shared_from_this();
  std::map<std::string, Metric> latest;
  const auto look_at = [&](std::size_t index) -> awaitable<void> {
    const auto sandbox = find(ids[index]);
    if (!sandbox) co_return;
    co_await sample(sandbox);
    if (const auto metric = sandbox->metrics.last()) latest.insert_or_assign(ids[index], *metric);
  };
  co_await for_each_concurrently(ids.size(), ids.size(), look_at);
  co_return latest;
}

/// One more sample, if it is due and the guest answers. Whoever comes meanwhile waits and uses the same.
awaitable<void> SandboxesImpl::sample(SandboxPtr sandbox) {
  const auto turn = co_await sandbox->sampling.lock();
  if (sandbox->info.state != SandboxState::running) co_return;
  if (!sandbox->metrics.take_turn(SteadyClock::now())) co_return;
  const auto permit = co_await observing_.acquire();
  if (sandbox->info.state != SandboxState::running) co_return;
  GuestClient guest(sandbox->running.machine);
  auto metric = co_await guest.metrics(observation_timeout);
  if (!metric.ok()) {
    log(LogLevel::debug, "node", "a guest does not say what it uses",
        {{"sandbox", sandbox->info.id}, {"error", metric.error().describe()}});
    co_return;
  }
  metric->at = Clock::now();
  metric->cpu_count = sandbox->info.vcpu_count;
  sandbox->metrics.add(*metric);
}

awaitable<Result<std::vector<LogEntry>>> SandboxesImpl::logs(std::string id, TimePoint first) {
  const auto self = shared_from_this();
  const auto sandbox = find(id);
  if (!sandbox) co_return sandbox_not_found(id);
  std::vector<LogEntry> inside;
  if (sandbox->info.state == SandboxState::running) {
    const auto permit = co_await observing_.acquire();
    Result<std::vector<LogEntry>> told = std::vector<LogEntry>{};
    if (sandbox->info.state == SandboxState::running) {
      GuestClient guest(sandbox->running.machine);
      told = co_await guest.journal(first, observation_timeout);
    }
    if (told.ok()) {
      inside = std::move(*told);
    } else if (sandbox->info.state == SandboxState::running) {
      LogEntry silent;
      silent.at = Clock::now();
      silent.level = LogLevel::warning;
      silent.source = "cubed";
      silent.message = "what happened inside is not known: " + told.error().message;
      inside.push_back(std::move(silent));
    }
  }
  co_return merge_logs(sandbox->events.entries(), std::move(inside), first);
}

}  // namespace cube::node
