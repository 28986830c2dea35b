// Sandboxes as E2B's clients read them.
#pragma once

#include <cube/core.hpp>
#include <cube/node.hpp>
#include <string>

namespace cube::api {

/// What create and connect answer: Sandbox.
std::string sandbox_json(const node::SandboxInfo& info, const std::string& domain);

/// SandboxDetail.
std::string sandbox_detail_json(const node::SandboxInfo& info, const std::string& domain);

/// One ListedSandbox.
void write_listed_sandbox(JsonWriter& json, const node::SandboxInfo& info);

}  // namespace cube::api
