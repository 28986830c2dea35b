// One sandbox, as the node knows it.
#pragma once

#include <asio/steady_timer.hpp>
#include <cube/node.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace cube::node {

/// What runs of a sandbox.
struct Running {
  std::shared_ptr<vmm::Machine> machine;
  std::shared_ptr<disk::CowDisk> disk;
  std::shared_ptr<snapshot::Witness> witness;  ///< or none: nobody asks it what it needed
  bool used = false;                           ///< somebody has connected, which a witness waits for
};

struct Sandbox {
  explicit Sandbox(const asio::any_io_executor& loop) : operation(loop), sampling(loop), deadline(loop) {}

  SandboxInfo info;
  std::map<std::string, std::string> env_vars;
  std::chrono::seconds timeout{0};  ///< as asked for last; traffic that resumes it gets at least that
  std::string checkpoint_id;        ///< the last one it was taken as, or comes from

  Running running;                 ///< empty while it is paused
  snapshot::SnapshotPtr snapshot;  ///< what the next capture is compared with; of a paused one, itself
  std::optional<Error> damage;     ///< of a paused one whose files cannot be opened

  /// A merge of an earlier snapshot, waiting for the next capture.
  struct Merged {
    snapshot::SnapshotPtr before, after;
  };
  std::optional<Merged> merged;
  bool merging = false;

  MetricHistory metrics;
  EventLog events;

  AsyncMutex operation;  ///< captures, pausing, resuming and rolling back take turns
  AsyncMutex sampling;   ///< one question to the guest about what it uses is enough
  asio::steady_timer deadline;
};
using SandboxPtr = std::shared_ptr<Sandbox>;

}  // namespace cube::node
