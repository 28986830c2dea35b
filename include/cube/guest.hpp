// guest: the contract between the daemon and cube-agent, the process with id 1 in every sandbox.
//
// Everything runs over vsock, so it works before, and without, any guest network. The agent listens on:
//
//   control_port   HTTP, for the daemon only; the proxy never leads here.
//     GET  /ready     200 {"envdVersion":"…"} as soon as the agent serves; a template's own start command and
//                     services are asked for through their ports.
//     POST /init      Makes a clone itself (see InitRequest); 204 when all of it has been done, an error
//                     {"code","message"} if any of it failed: then the clone must not be handed out.
//     POST /run       {"command":"…","user":"root","timeoutMs":n} runs /bin/bash -l -c; 200 {"exitCode":n,
//                     "output":"…"} with at most the last 64 KiB of stdout and stderr. For template builds.
//     POST /sync      Flushes file systems (and trims them); 204.
//     POST /settle    Returns when the kernel has reported its free memory to the host, which it begins at
//     boot and does
//                     over several seconds; at most half a minute. For template builds: otherwise every clone
//                     would go on with it. 204.
//     GET  /metrics   200 {"cpu_count","cpu_used_pct","mem_total","mem_used","mem_cache","disk_total",
//                     "disk_used"}: what the machine uses, in bytes. Takes a tenth of a second if nobody
//                     asked for a minute.
//     GET  /journal   ?since=NANOSECONDS; 200 {"entries":[{"unixTimeNs":"…","level":"info","message":"…",
//                     "fields":{"pid":"…"}}]}: processes that users started and how they ended, at most
//                     256 KiB, oldest first. It is guest memory: it goes where that goes.
//     POST /shutdown  Ends every process, syncs, unmounts and resets the machine. 202 at once.
//   tunnel_port    A connection begins with the TCP port as two bytes, little-endian; the agent connects to
//   it on
//                  127.0.0.1, then [::1], and answers one byte (TunnelAnswer). After `connected` both
//                  directions are the TCP stream's, half-close included.
//   envd_port      The same HTTP service as the guest's TCP port 49983: envd.
//
// The agent asks nothing of the host: connections go from the daemon to the guest only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace cube::guest {

inline constexpr std::uint32_t control_port = 1024;
inline constexpr std::uint32_t tunnel_port = 1025;
inline constexpr std::uint32_t envd_port = 49983;
inline constexpr std::uint16_t code_interpreter_port = 49999;

/// The entries that GET /journal answers with, in bytes.
inline constexpr std::size_t journal_bytes = 256 << 10;

/// What of E2B's envd the agent is at least equal to.
inline constexpr std::string_view envd_version = "0.6.13";

enum class TunnelAnswer : std::uint8_t { connected = 0, refused = 1, malformed = 2 };

/// POST /init, as JSON with the member names of the comments. Every clone gets it before any request of a
/// user, again after each resume from disk. In this order: entropy, clock, names, then settings.
struct InitRequest {
  std::string sandbox_id;   ///< "sandboxId"; also the host name; E2B_SANDBOX_ID and /run/e2b/.E2B_SANDBOX_ID
  std::string template_id;  ///< "templateId"
  std::string entropy_hex;  ///< "entropy": 64 random bytes, credited to the kernel's pool, which is reseeded
  std::int64_t unix_time_ns;  ///< "unixTimeNs", a string of digits: the wall clock, for a guest that KVM does
                              ///< not tell it
  std::string access_token;   ///< "accessToken": X-Access-Token of envd; empty: none is asked for
  std::string default_user;   ///< "defaultUser"; empty: "user"
  std::string default_workdir;  ///< "defaultWorkdir"; empty: the user's home
  /// "envVars": replace those of an earlier init; absent: those stay (a sandbox resumed from disk)
  std::optional<std::map<std::string, std::string>> env_vars;
  bool new_identity;  ///< "newIdentity": also a new machine-id; false after resuming the same sandbox
};

}  // namespace cube::guest
