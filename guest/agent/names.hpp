// The names of this machine in files: /etc/hostname, hosts and machine-id, and E2B's in /run/e2b.
#pragma once

#include <cube/core.hpp>
#include <cube/guest.hpp>
#include <string>
#include <string_view>

namespace cube::agent {

/// At boot: makes /etc/hostname and /etc/machine-id links into memory (/run/cube). Every clone gets its own,
/// and one that only waits then writes nothing to its disk: no journal to commit, no block that it does not
/// share. Under `root` ("" is the machine's own).
Result<void> keep_names_in_memory(const std::string& root);

/// What POST /init writes. /etc/hosts is left alone where the C library finds the name without it.
Result<void> write_names(const std::string& root, const guest::InitRequest& request);

/// `hosts` with 127.0.1.1 naming this machine, and localhost if it was missing; other lines are the user's.
std::string hosts_with_name(std::string_view hosts, std::string_view name);

}  // namespace cube::agent
