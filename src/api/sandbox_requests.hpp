// The bodies of the sandbox calls, in both generations of the protocol.
#pragma once

#include <chrono>
#include <cube/core.hpp>
#include <cube/node.hpp>
#include <string_view>

namespace cube::api {

/// v1: /sandboxes, SDKs up to 2.50. v2: /v2/sandboxes. They differ in the default timeout.
enum class Generation { v1, v2 };

std::chrono::seconds default_timeout(Generation generation);

Result<node::CreateRequest> parse_create(std::string_view body, Generation generation);

/// The body may be empty, as may that of each of these but rollback's.
Result<node::Sandboxes::PauseOptions> parse_pause(std::string_view body);
Result<node::Sandboxes::ResumeOptions> parse_resume(std::string_view body);

struct SnapshotRequest {
  std::string name;  ///< empty: none
  bool with_memory = true;
};
Result<SnapshotRequest> parse_snapshot(std::string_view body);

struct ForkRequest {
  std::chrono::seconds timeout{300};
  std::size_t count = 1;
};
Result<ForkRequest> parse_fork(std::string_view body);

/// {"snapshotID": "…"}: the id or name of the snapshot to go back to.
Result<std::string> parse_rollback(std::string_view body);

/// The body may be empty.
Result<node::Sandboxes::ResumeOptions> parse_connect(std::string_view body, Generation generation);

/// Zero or less becomes zero: expire now.
Result<std::chrono::seconds> parse_timeout(std::string_view body);

/// The body may be empty. At least `shortest_refresh`.
Result<std::chrono::seconds> parse_refresh(std::string_view body);
inline constexpr std::chrono::seconds shortest_refresh{15};

}  // namespace cube::api
